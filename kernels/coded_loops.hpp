// Decides which loops of the dense encoding have an implementation per instruction set.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/coded.hpp"
#include "kernels/dispatch.hpp"

namespace lockstep::kernels {

/// Elements are looked at in blocks, a bit of a mask each, and blocks in chunks.
inline constexpr std::size_t chunk_blocks = 128;
inline constexpr std::size_t block_elements = 64;
inline constexpr std::size_t chunk_elements = chunk_blocks * block_elements;

/// Bytes behind an output or input of bits that may be written or read, but mean nothing.
inline constexpr std::size_t bits_slack = 16;

/// A step as a number: its size less one, times two, plus one if it leads down.
template <class T>
using step_code = std::conditional_t<sizeof(T) == 1, std::uint16_t, T>;

/// The classes of one chunk's elements, block by block.
struct chunk_classes {
  /// Bit `j` of `of[8 b + c]`: element `j` of block `b` is of class `c`.
  alignas(64) std::array<std::uint64_t, chunk_blocks * class_count_max> of;
  /// Elements of class `c` in the range before block `b`; all ones behind the last block.
  alignas(64) std::array<std::uint32_t, chunk_blocks * class_count_max> before;
  /// Elements of each class in the range up to the end of this chunk.
  std::array<std::uint32_t, class_count_max> total{};
  /// Bit `j` of `changed[b]`: element `j` of block `b` differs.
  std::array<std::uint64_t, chunk_blocks> changed;
};

/// Changes of a range as they are found, apart by class. Each array has room for a chunk more.
template <class T>
struct found_changes {
  std::array<std::uint32_t*, class_count_max> gaps{};
  std::array<step_code<T>*, class_count_max> steps{};
  std::array<std::uint32_t, class_count_max> count{};
  std::array<std::uint32_t, class_count_max> next{};  ///< rank behind the last change
};

/// How the changes of one class are written; see coded_table.hpp.
struct class_code {
  std::uint32_t count;
  std::uint32_t exceptions;
  std::uint8_t gap_bits;
  std::uint8_t value_bits;
  std::uint8_t exception_gap_bits;
};

/// Bits appended from the lowest: up to 57 at once. Writes 8 bytes at a time from `at`.
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

/// What one chunk's changes are collected in: the new elements, and which they are.
template <class T>
struct chunk_changes {
  std::array<std::uint64_t, chunk_blocks> changed;
  std::array<T, chunk_elements> elements;
};

/// The digest's part of one implementation's output.
struct tile_sums {
  std::uint64_t lanes[2];
};

/// The loops for elements of one width. Pointers to elements need no alignment.
template <class T>
struct coded_loops {
  /// Classes of `elements` ≤ `chunk_elements` of `old`; `chunk.total` goes on from what it was.
  /// Where `target` is not null, also what differs.
  void (*classify)(const class_model& model, const std::byte* old, const std::byte* target,
                   std::size_t elements, chunk_classes& chunk);

  /// Adds the changes of a chunk that has been classified.
  void (*collect)(const class_model& model, const std::byte* old, const std::byte* target,
                  std::size_t elements, const chunk_classes& chunk, found_changes<T>& found);

  /// Writes the fields of fixed width, the unary parts of gaps, and the exceptions of one class.
  void (*put_fields)(const class_code& code, const std::uint32_t* gaps, const step_code<T>* steps,
                     bit_sink& out);
  void (*put_unary)(const class_code& code, const std::uint32_t* gaps, bit_sink& out);
  void (*put_exceptions)(const class_code& code, const step_code<T>* steps, bit_sink& out);

  /// The reverse. `ranks` and `steps` have room for `code.count`.
  /// @returns false if bits end before the class does, or a rank is not below `elements`.
  bool (*get_changes)(const class_code& code, std::uint32_t elements, bit_source& fields,
                      bit_source& unary, std::uint32_t* ranks, step_code<T>* steps);
  bool (*get_exceptions)(const class_code& code, bit_source& bits, step_code<T>* steps);

  /// Places the changes of one class whose ranks lie in this chunk, at most `count`.
  /// @returns how many.
  std::size_t (*place)(step_order order, std::size_t which_class, const std::byte* old,
                       const chunk_classes& chunk, const std::uint32_t* ranks,
                       const step_code<T>* steps, std::size_t count, chunk_changes<T>& out);

  /// Writes the changes among `blocks` blocks from `first` as raw records from `to`, which has room
  /// for all and for escapes; `next` is the element behind the last change, `position` that of the
  /// chunk's first.
  std::byte* (*put_raw)(const chunk_changes<T>& changes, std::size_t blocks, std::uint64_t position,
                        std::uint64_t& next, std::byte* to);

  /// By how much the changes among blocks [first, last) change the sums of the tile that begins at
  /// block `first`.
  void (*add_changes)(const chunk_changes<T>& changes, std::size_t first, std::size_t last,
                      const std::byte* old, const std::uint64_t* key, std::uint64_t* lanes);
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
