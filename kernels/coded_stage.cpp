#include <array>
#include <stdexcept>

#include "kernels/coded_loops.hpp"
#include "kernels/coded_table.hpp"
#include "kernels/frame_layout.hpp"
#include "kernels/inner_loops.hpp"
#include "kernels/scratch.hpp"

namespace lockstep::kernels {

struct frame_stager::memory {
  chunk_classes classes;
  scratch bits;
  scratch ranks;
  scratch steps;
  scratch changes;
  std::array<std::byte, chunk_elements * 8> live_end;
};

namespace {

/// Changes of one class, and how many of them have been placed.
template <class T>
struct class_changes {
  const std::uint32_t* ranks = nullptr;
  const step_code<T>* steps = nullptr;
  std::size_t count = 0;
  std::size_t placed = 0;
};

/// Where a range's changes go: raw records, or a copy of the range where those would be longer.
template <class T>
class absorbing_writer {
 public:
  absorbing_writer(const coded_loops<T>& loops, const frame& f, const std::byte* live,
                   std::vector<std::byte>& out)
      : loops_(loops), out_(out), start_(out.size()), frame_(f) {
    const std::uint64_t records =
        std::uint64_t{f.count} * (gap_bytes + sizeof(T)) +
        gap_bytes * (f.range_bytes / sizeof(T) / gap_escape + 1);
    frame_.encoding = records < f.range_bytes ? frame_encoding::raw : frame_encoding::full;
    const bool raw = frame_.encoding == frame_encoding::raw;
    out_.resize(start_ + frame_header_bytes + (raw ? records : f.range_bytes));
    to_ = out_.data() + start_ + frame_header_bytes;
    if (raw) return;
    frame_.count = f.range_bytes / static_cast<std::uint32_t>(sizeof(T));
    std::memcpy(to_, live, f.range_bytes);
  }

  void add(const chunk_changes<T>& changes, std::size_t blocks, std::uint64_t position) {
    if (frame_.encoding == frame_encoding::raw) {
      to_ = loops_.put_raw(changes, blocks, position, next_, to_);
      return;
    }
    for (std::size_t b = 0; b < blocks; ++b)
      for (std::uint64_t mask = changes.changed[b]; mask != 0; mask &= mask - 1) {
        const std::size_t index =
            b * block_elements + static_cast<unsigned>(__builtin_ctzll(mask));
        std::memcpy(to_ + (position + index) * sizeof(T), &changes.elements[index], sizeof(T));
      }
  }

  void finish() {
    if (frame_.encoding == frame_encoding::raw)
      out_.resize(static_cast<std::size_t>(to_ - out_.data()));
    write_header(out_, start_, frame_);
  }

  void undo() { out_.resize(start_); }

 private:
  const coded_loops<T>& loops_;
  std::vector<std::byte>& out_;
  const std::size_t start_;
  frame frame_;
  std::byte* to_ = nullptr;
  std::uint64_t next_ = 0;
};

/// One coded frame, decoded on its base.
template <class T, class Memory>
class range_decoder {
 public:
  range_decoder(Memory& memory, const frame& f, const std::byte* live)
      : memory_(memory), frame_(f), live_(live) {}

  /// Reads the payload's bits; nothing of the live range.
  frame_status unpack() {
    bytes_view bits;
    if (const auto status = read_table(frame_, table_, bits); status != frame_status::ok)
      return status;
    auto* const data = memory_.bits.template room_for<std::byte>(bits.size + bits_slack);
    std::memcpy(data, bits.data, bits.size);
    std::memset(data + bits.size, 0, bits_slack);
    auto* ranks = memory_.ranks.template room_for<std::uint32_t>(frame_.count);
    auto* steps = memory_.steps.template room_for<step_code<T>>(frame_.count);
    const std::uint64_t fixed_bytes = (table_.fixed_bits() + 7) / 8;
    bit_source fields{data, 0, table_.fixed_bits()};
    bit_source variable{data, 8 * fixed_bytes, std::uint64_t{8} * bits.size};
    for (std::size_t i = 0; i < table_.model.classes; ++i) {
      const coded_class& c = table_.classes[i];
      classes_[i] = {ranks, steps, c.count, 0};
      if (!loops_.get_changes(code_of(c), frame_.range_bytes / sizeof(T), fields, variable, ranks,
                              steps))
        return frame_status::bad_position;
      ranks += c.count;
      steps += c.count;
    }
    steps = memory_.steps.template room_for<step_code<T>>(frame_.count);
    for (std::size_t i = 0; i < table_.model.classes; ++i) {
      const coded_class& c = table_.classes[i];
      if (!loops_.get_exceptions(code_of(c), variable, steps)) return frame_status::bad_size;
      steps += c.count;
    }
    return ends_here(fields, data, fixed_bytes) && ends_here(variable, data, bits.size)
               ? frame_status::ok
               : frame_status::bad_size;
  }

  /// Reads the live range once. @returns whether every rank is one of its class.
  bool run(const digest_key& key, absorbing_writer<T>& writer, staged_digest& digest) {
    memory_.classes.total = {};
    auto& changes = *memory_.changes.template room_for<chunk_changes<T>>(1);
    constexpr std::size_t chunk_bytes = chunk_elements * sizeof(T);
    for (std::size_t at = 0; at < frame_.range_bytes; at += chunk_bytes) {
      const std::size_t size = std::min<std::size_t>(chunk_bytes, frame_.range_bytes - at);
      const std::byte* old = live_ + at;
      digest.base += digest_range(key, frame_.tensor, frame_.offset + at, {old, size});
      constexpr std::size_t block_size = block_elements * sizeof(T);
      if (size % block_size != 0) {
        std::memcpy(memory_.live_end.data(), old, size);
        std::memset(memory_.live_end.data() + size, 0, block_size - size % block_size);
        old = memory_.live_end.data();
      }
      const std::size_t blocks = (size + block_size - 1) / block_size;
      loops_.classify(table_.model, old, nullptr, size / sizeof(T), memory_.classes);
      if (!place_chunk(old, blocks, changes)) continue;
      writer.add(changes, blocks, at / sizeof(T));
      add_changes(key, frame_.offset + at, old, blocks, changes, digest);
    }
    for (const auto& c : classes_)
      if (c.placed != c.count) return false;
    return true;
  }

 private:
  static class_code code_of(const coded_class& c) noexcept {
    return {c.count, c.exceptions, c.gap_bits, c.value_bits,
            exception_gap_bits(c.count, c.exceptions)};
  }

  /// Bits are filled up with zeros to a byte, and none is left over.
  static bool ends_here(const bit_source& bits, const std::byte* data, std::uint64_t bytes) {
    if ((bits.at + 7) / 8 != bytes) return false;
    return bits.at % 8 == 0 || std::to_integer<unsigned>(data[bytes - 1]) >> bits.at % 8 == 0;
  }

  bool place_chunk(const std::byte* old, std::size_t blocks, chunk_changes<T>& changes) {
    std::memset(changes.changed.data(), 0, blocks * sizeof changes.changed[0]);
    bool any = false;
    for (std::size_t i = 0; i < table_.model.classes; ++i) {
      auto& c = classes_[i];
      const std::size_t placed =
          loops_.place(table_.model.order, i, old, memory_.classes, c.ranks + c.placed,
                       c.steps + c.placed, c.count - c.placed, changes);
      c.placed += placed;
      any = any || placed != 0;
    }
    return any;
  }

  void add_changes(const digest_key& key, std::uint64_t byte, const std::byte* old,
                   std::size_t blocks, const chunk_changes<T>& changes, staged_digest& digest) {
    constexpr std::size_t tile_blocks = digest_tile_bytes / (block_elements * sizeof(T));
    std::uint64_t tile = byte / digest_tile_bytes;
    for (std::size_t b = 0; b < blocks; b += tile_blocks, ++tile) {
      std::uint64_t lanes[2] = {0, 0};
      loops_.add_changes(changes, b, std::min(blocks, b + tile_blocks), old, key.words(), lanes);
      for (std::size_t lane = 0; lane < 2; ++lane)
        digest.change.lane[lane] += lanes[lane] * key.multiplier(lane, frame_.tensor, tile);
    }
  }

  Memory& memory_;
  const frame& frame_;
  const std::byte* const live_;
  const coded_loops<T>& loops_ = active_coded_loops().of<T>();
  coded_table table_;
  std::array<class_changes<T>, class_count_max> classes_{};
};

}  // namespace

frame_stager::frame_stager() : memory_(std::make_unique<memory>()) {}
frame_stager::~frame_stager() = default;
frame_stager::frame_stager(frame_stager&&) noexcept = default;
frame_stager& frame_stager::operator=(frame_stager&&) noexcept = default;

frame_status frame_stager::stage(const digest_key& key, const frame& f, tensor_view live,
                                 std::vector<std::byte>& out, staged_digest& digest) {
  require_fit(f, live);
  const std::byte* const range = live.bytes.data + f.offset;
  if (f.encoding != frame_encoding::coded) {
    digest.change += change_of(key, f, live);
    digest.base += digest_range(key, f.tensor, f.offset, {range, f.range_bytes});
    const std::size_t start = out.size();
    out.resize(start + frame_header_bytes);
    out.insert(out.end(), f.payload.data, f.payload.data + f.payload.size);
    write_header(out, start, f);
    return frame_status::ok;
  }
  if (f.count > f.range_bytes / f.unit) return frame_status::bad_count;
  return with_unit(f.unit, [&](auto zero) {
    range_decoder<decltype(zero), memory> decoder(*memory_, f, range);
    if (const auto status = decoder.unpack(); status != frame_status::ok) return status;
    absorbing_writer<decltype(zero)> writer(active_coded_loops().of<decltype(zero)>(), f, range,
                                            out);
    staged_digest added;
    if (!decoder.run(key, writer, added)) {
      writer.undo();
      return frame_status::bad_position;
    }
    writer.finish();
    digest.base += added.base;
    digest.change += added.change;
    return frame_status::ok;
  });
}

}  // namespace lockstep::kernels
