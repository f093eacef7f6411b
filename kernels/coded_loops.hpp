// Decides which loops of the dense encoding have an implementation per instruction set.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/coded.hpp"
#include "kernels/digest.hpp"
#include "kernels/dispatch.hpp"

namespace lockstep::kernels {

/// Elements are looked at in blocks, a bit of a mask each, and blocks in chunks: tiles of the
/// digest.
inline constexpr std::size_t block_elements = 64;
inline constexpr std::size_t chunk_bytes = digest_tile_bytes;
inline constexpr std::size_t chunk_blocks_max = chunk_bytes / block_elements;
template <class T>
inline constexpr std::size_t chunk_elements = chunk_bytes / sizeof(T);

/// Bytes behind an output or input of bits that may be written or read, but mean nothing.
inline constexpr std::size_t bits_slack = 16;

/// A step as a number: its size less one, times two, plus one if it leads down.
template <class T>
using step_code = std::conditional_t<sizeof(T) == 1, std::uint16_t, T>;

/// The classes of one chunk's elements, block by block.
struct chunk_classes {
  /// Bit `j` of `of[8 b + c]`: element `j` of block `b` is of class `c`; 0 if there is none such.
  alignas(64) std::array<std::uint64_t, chunk_blocks_max * class_count_max> of;
  /// Elements of class `c` in the range before block `b`.
  alignas(64) std::array<std::uint64_t, chunk_blocks_max * class_count_max> before;
  /// Elements of each class in the range up to the end of this chunk.
  alignas(64) std::array<std::uint64_t, class_count_max> total{};
  /// Bit `j` of `changed[b]`: element `j` of block `b` differs.
  std::array<std::uint64_t, chunk_blocks_max> changed;
  /// Whether more than `sparse_max` elements of a block may be of one class.
  bool dense = false;
};
/// Bits that one unaligned load of 8 bytes is sure to hold, wherever they begin.
inline constexpr std::size_t sparse_max = 57;

/// Room behind a list of changes that may be written.
inline constexpr std::size_t list_slack = 32;

/// A model, ready to look up the class of a key.
struct class_table {
  explicit class_table(const class_model& model) noexcept;

  std::uint8_t classes;
  step_order order;
  std::array<std::uint8_t, class_count_max> thresholds{};
  std::array<std::uint8_t, 256> of_key{};
  /// If `near`: the class of key `k` is `of_near[min(max(k, first) - first, 15)]`.
  bool near = false;
  std::uint8_t first = 0;
  alignas(16) std::array<std::uint8_t, 16> of_near{};
};

/// Changes of a range as they are found, apart by class. Each array has room for a chunk more.
template <class T>
struct found_changes {
  struct of_class {
    std::uint32_t* gaps = nullptr;
    step_code<T>* steps = nullptr;
    std::uint32_t count = 0;
    std::uint32_t next = 0;  ///< rank behind the last change
  };
  std::array<of_class, class_count_max> of{};
};

/// How the changes of one class are written; see coded_table.hpp.
struct class_code {
  std::uint32_t count;
  std::uint32_t exceptions;
  std::uint8_t gap_bits;
  std::uint8_t value_bits;
  std::uint8_t exception_gap_bits;
};

/// Bits appended from the lowest: up to 56 at once. Writes 8 bytes at a time from `at`.
struct bit_sink {
  std::byte* at;
  std::uint64_t held = 0;
  unsigned count = 0;
};

/// A place in bits that are followed by `bits_slack` bytes.
struct bit_source {
  const std::byte* data;
  std::uint64_t at;   ///< in bits
  std::uint64_t end;  ///< in bits
};

/// The changes of a coded range, apart by class.
template <class T>
struct unpacked_changes {
  /// Bit `r` of a row: the class's element of rank `r` changes. Followed by `bits_slack` bytes.
  std::array<std::uint64_t*, class_count_max> ranks{};
  /// The next step of each class. Behind the last one there is room for all others.
  std::array<const step_code<T>*, class_count_max> steps{};
};

/// What a receiver makes of changes: raw records of a range, and what they change of a chunk.
template <class T>
struct change_sink {
  std::byte* records = nullptr;  ///< has room for all that comes, escapes included
  std::uint64_t next = 0;        ///< the element behind the last change
  /// The chunk's elements that change, ascending, and what they become.
  std::size_t count = 0;
  std::array<std::uint16_t, chunk_elements<T> + list_slack> where;
  std::array<T, chunk_elements<T>> elements;
};

/// The loops for elements of one width. Pointers to elements need no alignment.
template <class T>
struct coded_loops {
  /// Classes of `elements` of `old`, at most a chunk; `chunk.total` goes on from what it was. Where
  /// `target` is not null, also what differs. Reads whole blocks.
  void (*classify)(const class_table& table, const std::byte* old, const std::byte* target,
                   std::size_t elements, chunk_classes& chunk);

  /// Adds the changes of a chunk of `blocks` that has been classified.
  void (*collect)(const class_table& table, const std::byte* old, const std::byte* target,
                  std::size_t blocks, const chunk_classes& chunk, found_changes<T>& found);

  /// Writes the fields of fixed width, the unary parts of gaps, and the exceptions of one class.
  void (*put_fields)(const class_code& code, const std::uint32_t* gaps, const step_code<T>* steps,
                     bit_sink& out);
  void (*put_unary)(const class_code& code, const std::uint32_t* gaps, bit_sink& out);
  void (*put_exceptions)(const class_code& code, const step_code<T>* steps, bit_sink& out);

  /// The reverse: sets a bit of `ranks` for each change, and writes as many `steps`. `last` is the
  /// largest rank of which the bit is set; not touched if there is none.
  /// @returns false if bits end before the class does, or a rank is not below `elements`.
  bool (*get_changes)(const class_code& code, std::uint32_t elements, bit_source& fields,
                      bit_source& unary, std::uint64_t* ranks, step_code<T>* steps,
                      std::uint32_t& last);
  bool (*get_exceptions)(const class_code& code, bit_source& bits, step_code<T>* steps);

  /// From ranks to elements: sets `chunk.changed` of a chunk that has been classified.
  void (*place)(std::size_t classes, std::size_t blocks,
                const std::array<std::uint64_t*, class_count_max>& ranks, chunk_classes& chunk);

  /// Takes the steps of the changed elements. `position` is that of the chunk's first.
  void (*apply_steps)(const class_table& table, const std::byte* old, std::size_t blocks,
                      std::uint64_t position, const chunk_classes& chunk,
                      unpacked_changes<T>& changes, change_sink<T>& out);

  /// Adds to `lanes` by how much these changes change the sums of a digest's tile, whose key it is.
  void (*add_change)(const std::byte* old, const std::uint64_t* key, const change_sink<T>& changes,
                     std::uint64_t* lanes);
};

struct all_coded_loops {
  implementation which;
  coded_loops<std::uint8_t> of_1;
  coded_loops<std::uint16_t> of_2;
  coded_loops<std::uint32_t> of_4;
  coded_loops<std::uint64_t> of_8;

  template <class T>
  const coded_loops<T>& of() const noexcept {
    if constexpr (sizeof(T) == 1)
      return of_1;
    else if constexpr (sizeof(T) == 2)
      return of_2;
    else if constexpr (sizeof(T) == 4)
      return of_4;
    else
      return of_8;
  }
};

const all_coded_loops& portable_coded_loops() noexcept;

/// The loops of a vector implementation; the portable ones if `which` is none that is built in.
const all_coded_loops& vector_coded_loops(implementation which) noexcept;

/// Those of the implementation in use.
const all_coded_loops& active_coded_loops() noexcept;

}  // namespace lockstep::kernels
