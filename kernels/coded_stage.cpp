#include <array>
#include <stdexcept>
#include <tuple>

#include "kernels/coded_loops.hpp"
#include "kernels/coded_table.hpp"
#include "kernels/frame_layout.hpp"
#include "kernels/inner_loops.hpp"
#include "kernels/raw_payload.hpp"
#include "kernels/scratch.hpp"

namespace lockstep::kernels {

struct frame_stager::memory {
  chunk_classes classes;
  scratch bits;
  scratch steps;
  /// All zeros between calls.
  std::array<std::vector<std::uint64_t>, class_count_max> ranks;
  std::vector<std::byte> records;
  std::array<std::byte, chunk_bytes> live_end;
  std::array<std::byte, chunk_bytes> target_tile;
  std::tuple<change_sink<std::uint8_t>, change_sink<std::uint16_t>, change_sink<std::uint32_t>,
             change_sink<std::uint64_t>>
      sinks;

  template <class T>
  change_sink<T>& sink_of() noexcept {
    return std::get<change_sink<T>>(sinks);
  }
};

namespace {

/// With more changes than this in each block, all of a tile is digested anew rather than what
/// changes of it.
constexpr std::size_t rescan_changes = 1;

template <class T>
std::size_t blocks_in(std::size_t size) noexcept {
  constexpr std::size_t block_size = block_elements * sizeof(T);
  return (size + block_size - 1) / block_size;
}

/// These bytes, or, if they end within a block, a copy that zeros follow.
template <class T, class Memory>
const std::byte* whole_blocks(Memory& memory, const std::byte* old, std::size_t size) noexcept {
  const std::size_t whole = blocks_in<T>(size) * block_elements * sizeof(T);
  if (whole == size) return old;
  std::memcpy(memory.live_end.data(), old, size);
  std::memset(memory.live_end.data() + size, 0, whole - size);
  return memory.live_end.data();
}

/// Adds what the tile at `at` of a frame's range is, and by how much the changes that were gathered
/// change it. `old` is followed by zeros up to a whole block.
template <class T, class Memory>
void add_tile(Memory& memory, keyed_digest* digests, std::size_t count, const frame& f,
              std::size_t at, bytes_view old) noexcept {
  const auto& sink = memory.template sink_of<T>();
  const std::uint64_t offset = f.offset + at;
  const bool dense = sink.count > blocks_in<T>(old.size) * rescan_changes;
  std::byte* const tile = memory.target_tile.data();  // as it will be
  if (dense) {
    std::memcpy(tile, old.data, old.size);
    for (std::size_t i = 0; i < sink.count; ++i)
      std::memcpy(tile + sink.where[i] * sizeof(T), &sink.elements[i], sizeof(T));
  }
  for (keyed_digest* d = digests; d != digests + count; ++d) {
    const auto base = digest_range(*d->key, f.tensor, offset, old);
    d->sum.base += base;
    if (dense) {
      d->sum.change -= base;
      d->sum.change += digest_range(*d->key, f.tensor, offset, {tile, old.size});
    } else if (sink.count != 0) {
      std::uint64_t lanes[2] = {0, 0};
      active_coded_loops().of<T>().add_change(old.data, d->key->words(), sink, lanes);
      for (std::size_t lane = 0; lane < 2; ++lane)
        d->sum.change.lane[lane] +=
            lanes[lane] * d->key->multiplier(lane, f.tensor, offset / digest_tile_bytes);
    }
  }
}

/// Adds what the range of a raw frame is, and by how much the frame changes it. Reads it once.
template <class T, class Memory>
void add_raw(Memory& memory, keyed_digest* digests, std::size_t count, const frame& f,
             const std::byte* live) {
  auto& sink = memory.template sink_of<T>();
  sink.count = 0;
  std::size_t at = 0;
  const auto end_tile = [&] {
    const std::size_t size = std::min<std::size_t>(chunk_bytes, f.range_bytes - at);
    add_tile<T>(memory, digests, count, f, at, {whole_blocks<T>(memory, live + at, size), size});
    sink.count = 0;
    at += chunk_bytes;
  };
  const auto status = walk_raw<T>(f, [&](std::uint64_t position, T element) {
    while (position * sizeof(T) >= at + chunk_bytes) end_tile();
    sink.where[sink.count] = static_cast<std::uint16_t>(position - at / sizeof(T));
    sink.elements[sink.count++] = element;
  });
  if (status != frame_status::ok)
    throw std::invalid_argument("stage: the payload is not one that parse_frame accepts");
  while (at < f.range_bytes) end_tile();
}

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
    // Twice: should the live tensor change meanwhile, a class may take more steps than it has.
    auto* steps = memory_.steps.template room_for<step_code<T>>(2 * std::size_t{frame_.count});
    const std::uint64_t fixed_bytes = (table_.fixed_bits() + 7) / 8;
    bit_source fields{data, 0, table_.fixed_bits()};
    bit_source variable{data, 8 * fixed_bytes, std::uint64_t{8} * bits.size};
    const std::uint32_t elements = frame_.range_bytes / static_cast<std::uint32_t>(sizeof(T));
    for (std::size_t i = 0; i < table_.model.classes; ++i) {
      const coded_class& c = table_.classes[i];
      auto& ranks = memory_.ranks[i];
      if (ranks.size() < elements / 64 + 1 + bits_slack / 8)
        ranks.resize(elements / 64 + 1 + bits_slack / 8);
      changes_.ranks[i] = ranks.data();
      changes_.steps[i] = steps;
      if (!loops_.get_changes(code_of(c), elements, fields, variable, ranks.data(), steps,
                              last_[i]))
        return frame_status::bad_position;
      steps += c.count;
    }
    steps = memory_.steps.template room_for<step_code<T>>(0);
    for (std::size_t i = 0; i < table_.model.classes; ++i) {
      const coded_class& c = table_.classes[i];
      if (!loops_.get_exceptions(code_of(c), variable, steps)) return frame_status::bad_size;
      steps += c.count;
    }
    return ends_here(fields, data, fixed_bytes) && ends_here(variable, data, bits.size)
               ? frame_status::ok
               : frame_status::bad_size;
  }

  /// Reads the live range once. Writes raw records from `records`, which has room for them.
  /// @returns where they end; null if a rank is not one of its class: the digests are spoilt then.
  std::byte* run(keyed_digest* digests, std::size_t count, std::byte* records) {
    chunk_classes& classes = memory_.classes;
    classes.total = {};
    const class_table table(table_.model);
    auto& sink = memory_.template sink_of<T>();
    sink.records = records;
    sink.next = 0;
    for (std::size_t at = 0; at < frame_.range_bytes; at += chunk_bytes) {
      const std::size_t size = std::min<std::size_t>(chunk_bytes, frame_.range_bytes - at);
      const std::byte* old = live_ + at;
      old = whole_blocks<T>(memory_, old, size);
      const std::size_t blocks = blocks_in<T>(size);
      loops_.classify(table, old, nullptr, size / sizeof(T), classes);
      loops_.place(table_.model.classes, blocks, changes_.ranks, classes);
      loops_.apply_steps(table, old, blocks, at / sizeof(T), classes, changes_, sink);
      add_tile<T>(memory_, digests, count, frame_, at, {old, size});
    }
    for (std::size_t i = 0; i < table_.model.classes; ++i)
      if (table_.classes[i].count != 0 && last_[i] >= classes.total[i]) return nullptr;
    return sink.records;
  }

  ~range_decoder() {
    for (std::size_t i = 0; i < table_.model.classes; ++i)
      if (changes_.ranks[i] != nullptr) std::memset(changes_.ranks[i], 0, (last_[i] / 64 + 1) * 8);
  }
  range_decoder(const range_decoder&) = delete;
  range_decoder& operator=(const range_decoder&) = delete;

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

  Memory& memory_;
  const frame& frame_;
  const std::byte* const live_;
  const coded_loops<T>& loops_ = active_coded_loops().of<T>();
  coded_table table_;
  unpacked_changes<T> changes_;
  std::array<std::uint32_t, class_count_max> last_{};
};

/// Writes the elements of raw records into their range.
void overwrite(std::uint32_t unit, bytes_view records, std::byte* range) noexcept {
  std::uint64_t position = 0;
  for (std::size_t at = 0; at < records.size;) {
    const auto gap = load<std::uint16_t>(records.data + at);
    at += gap_bytes;
    position += gap;
    if (gap == gap_escape) continue;
    std::memcpy(range + position * unit, records.data + at, unit);
    at += unit;
    ++position;
  }
}

}  // namespace

// Not cleared: to clear it takes longer than to decode a small frame.
frame_stager::frame_stager() : memory_(new memory) {}
frame_stager::~frame_stager() = default;
frame_stager::frame_stager(frame_stager&&) noexcept = default;
frame_stager& frame_stager::operator=(frame_stager&&) noexcept = default;

frame_status frame_stager::stage(const digest_key& key, const frame& f, tensor_view live,
                                 std::vector<std::byte>& out, staged_digest& digest) {
  keyed_digest one{&key, digest};
  const auto status = stage(&one, 1, f, live, out);
  digest = one.sum;
  return status;
}

frame_status frame_stager::stage(keyed_digest* digests, std::size_t count, const frame& f,
                                 tensor_view live, std::vector<std::byte>& out) {
  require_fit(f, live);
  if (count > digests_max)
    throw std::invalid_argument("stage: under more keys than one pass is for");
  const std::byte* const range = live.bytes.data + f.offset;
  if (f.encoding != frame_encoding::coded) {
    if (f.encoding == frame_encoding::raw)
      with_unit(f.unit,
                [&](auto zero) { add_raw<decltype(zero)>(*memory_, digests, count, f, range); });
    else
      for (std::size_t i = 0; i < count; ++i) {
        digests[i].sum.base +=
            digest_range(*digests[i].key, f.tensor, f.offset, {range, f.range_bytes});
        digests[i].sum.change += change_of(*digests[i].key, f, live);
      }
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
    // The escapes of a range are as many as it has times 65,535 elements.
    const std::uint64_t records_max =
        std::uint64_t{f.count} * (gap_bytes + f.unit) +
        gap_bytes * std::uint64_t{f.range_bytes / f.unit / gap_escape + 1};
    const bool raw = records_max < f.range_bytes;
    const std::size_t start = out.size();
    out.resize(start + frame_header_bytes + (raw ? records_max : f.range_bytes));
    std::byte* const payload = out.data() + start + frame_header_bytes;
    if (!raw) memory_->records.resize(records_max);
    std::byte* const records = raw ? payload : memory_->records.data();
    std::array<staged_digest, digests_max> before;
    for (std::size_t i = 0; i < count; ++i) before[i] = digests[i].sum;
    std::byte* const end = decoder.run(digests, count, records);
    if (end == nullptr) {
      for (std::size_t i = 0; i < count; ++i) digests[i].sum = before[i];
      out.resize(start);
      return frame_status::bad_position;
    }
    frame made = f;
    made.encoding = raw ? frame_encoding::raw : frame_encoding::full;
    if (raw) {
      out.resize(static_cast<std::size_t>(end - out.data()));
    } else {
      made.count = f.range_bytes / f.unit;
      std::memcpy(payload, range, f.range_bytes);
      overwrite(f.unit, {records, static_cast<std::size_t>(end - records)}, payload);
    }
    write_header(out, start, made);
    return frame_status::ok;
  });
}

}  // namespace lockstep::kernels
