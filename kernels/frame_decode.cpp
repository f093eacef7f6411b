#include <xxhash.h>

#include <array>
#include <stdexcept>

#include "kernels/coded_table.hpp"
#include "kernels/frame_layout.hpp"
#include "kernels/inner_loops.hpp"
#include "kernels/raw_payload.hpp"

namespace lockstep::kernels {
namespace {

frame_status check_payload(const frame& f) noexcept {
  switch (f.encoding) {
    case frame_encoding::full:
      if (f.count != f.range_bytes / f.unit) return frame_status::bad_count;
      return f.payload.size == f.range_bytes ? frame_status::ok : frame_status::bad_size;
    case frame_encoding::raw:
      if (f.count == 0) return frame_status::bad_count;
      // Otherwise the encoder would have written a full frame; this bounds what a frame can take.
      if (f.payload.size >= f.range_bytes) return frame_status::bad_size;
      return with_unit(f.unit, [&](auto zero) {
        return walk_raw<decltype(zero)>(f, [](std::uint64_t, decltype(zero)) {});
      });
    case frame_encoding::coded: {
      if (f.count == 0 || f.count > f.range_bytes / f.unit) return frame_status::bad_count;
      if (f.payload.size >= f.range_bytes) return frame_status::bad_size;
      coded_table table;
      bytes_view bits;
      return read_table(f, table, bits);
    }
  }
  return frame_status::bad_encoding;
}

std::uint32_t load_3(const std::byte* from) noexcept {
  std::uint32_t value = 0;
  std::memcpy(&value, from, 3);
  return value;
}

void require_absorbing(const frame& f) {
  if (f.encoding != frame_encoding::raw && f.encoding != frame_encoding::full)
    throw std::invalid_argument("frame: only a raw or full one can be applied");
}

void require_ok(frame_status status) {
  if (status != frame_status::ok)
    throw std::invalid_argument("frame: its payload is not one that parse_frame accepts");
}

/// Changes that are held back until the memory they need is on its way: at low density each is a
/// cache miss that no hardware prefetcher foresees.
template <class T>
class pending_changes {
 public:
  explicit pending_changes(const std::byte* memory) noexcept : memory_(memory) {}

  /// The element at `byte` of the memory changes.
  /// @returns whether there is no room for another.
  bool add(std::uint64_t byte, T element) noexcept {
    __builtin_prefetch(memory_ + byte);
    held_[count_++] = {byte, element};
    return count_ == held_.size();
  }

  /// Calls `take(byte, element)` for each, in order, and forgets them.
  template <class Take>
  void take_all(Take take) noexcept {
    for (std::size_t i = 0; i < count_; ++i) take(held_[i].byte, held_[i].element);
    count_ = 0;
  }

 private:
  struct change {
    std::uint64_t byte;
    T element;
  };

  const std::byte* memory_;
  std::array<change, 64> held_;
  std::size_t count_ = 0;
};

/// Sums by how much a digest changes, word by word, in increasing order.
template <class T>
class change_sum {
 public:
  change_sum(const digest_key& key, const frame& f, const tensor_view& live) noexcept
      : key_(key), live_(live.bytes), tensor_(f.tensor), pending_(live.bytes.data) {}

  /// The tensor's bytes at `byte` become `element`.
  void on_change(std::uint64_t byte, T element) noexcept {
    if (pending_.add(byte, element)) drain();
  }

  digest_sum finish() noexcept {
    drain();
    add_word();
    add_tile();
    return sum_;
  }

 private:
  static constexpr std::uint64_t none = ~std::uint64_t{0};

  void drain() noexcept {
    pending_.take_all([this](std::uint64_t byte, T element) {
      if (byte / 8 != word_) next_word(byte / 8);
      const std::uint64_t shift = byte % 8 * 8;
      const std::uint64_t mask = std::uint64_t{static_cast<T>(~T{0})} << shift;
      new_ = (new_ & ~mask) | std::uint64_t{element} << shift;
    });
  }

  void next_word(std::uint64_t word) noexcept {
    add_word();
    if (word / digest_tile_words != word_ / digest_tile_words) add_tile();
    word_ = word;
    const std::uint64_t at = word * 8;
    old_ = live_.size - at >= 8 ? load<std::uint64_t>(live_.data + at)
                                : load_partial(live_.data + at, live_.size - at);
    new_ = old_;
  }

  void add_word() noexcept {
    const std::uint64_t* const key = key_.words() + word_ % digest_tile_words;
    tile_[0] += nh(new_, key[0]) - nh(old_, key[0]);
    tile_[1] += nh(new_, key[1]) - nh(old_, key[1]);
  }

  void add_tile() noexcept {
    for (std::size_t lane = 0; lane < 2; ++lane) {
      sum_.lane[lane] += tile_[lane] * key_.multiplier(lane, tensor_, word_ / digest_tile_words);
      tile_[lane] = 0;
    }
  }

  const digest_key& key_;
  const bytes_view live_;
  const std::uint32_t tensor_;
  std::uint64_t word_ = none;
  std::uint64_t old_ = 0;
  std::uint64_t new_ = 0;
  std::uint64_t tile_[2] = {0, 0};
  digest_sum sum_;
  pending_changes<T> pending_;
};

}  // namespace

const char* to_string(frame_status status) noexcept {
  switch (status) {
    case frame_status::ok:
      return "ok";
    case frame_status::truncated:
      return "truncated";
    case frame_status::bad_magic:
      return "bad_magic";
    case frame_status::bad_checksum:
      return "bad_checksum";
    case frame_status::bad_encoding:
      return "bad_encoding";
    case frame_status::bad_tensor:
      return "bad_tensor";
    case frame_status::bad_range:
      return "bad_range";
    case frame_status::bad_count:
      return "bad_count";
    case frame_status::bad_position:
      return "bad_position";
    case frame_status::bad_size:
      return "bad_size";
    case frame_status::bad_table:
      return "bad_table";
  }
  return "unknown";
}

void require_fit(const frame& f, const tensor_view& live) {
  if (!is_framable(live) || f.unit != live.unit || f.offset >= live.bytes.size ||
      f.range_bytes != range_bytes_at(live.bytes.size, f.offset))
    throw std::invalid_argument("frame: it does not fit the tensor");
}

std::uint32_t frame_checksum(bytes_view whole) noexcept {
  return static_cast<std::uint32_t>(
      XXH3_64bits(whole.data + field::encoding, whole.size - field::encoding));
}

frame_status parse_frame(bytes_view data, const std::vector<tensor_view>& tensors, frame& out,
                         std::size_t& consumed) noexcept {
  if (data.size < frame_header_bytes) return frame_status::truncated;
  if (load<std::uint8_t>(data.data + field::magic) != frame_magic) return frame_status::bad_magic;
  const std::size_t payload_bytes = load<std::uint32_t>(data.data + field::payload_bytes);
  if (payload_bytes > data.size - frame_header_bytes) return frame_status::truncated;
  const std::size_t size = frame_header_bytes + payload_bytes;
  if (load<std::uint32_t>(data.data + field::checksum) != frame_checksum({data.data, size}))
    return frame_status::bad_checksum;

  frame f;
  f.encoding = load<frame_encoding>(data.data + field::encoding);
  f.unit = load<std::uint8_t>(data.data + field::unit);
  f.tensor = load<std::uint32_t>(data.data + field::tensor);
  f.offset = std::uint64_t{load_3(data.data + field::range)} * frame_span_bytes_max;
  f.count = load_3(data.data + field::count);
  f.payload = {data.data + frame_header_bytes, payload_bytes};

  if (f.tensor >= tensors.size()) return frame_status::bad_tensor;
  const tensor_view& tensor = tensors[f.tensor];
  if (f.unit != tensor.unit || !is_framable(tensor)) return frame_status::bad_tensor;
  if (f.offset >= tensor.bytes.size) return frame_status::bad_range;
  f.range_bytes = range_bytes_at(tensor.bytes.size, f.offset);
  const frame_status status = check_payload(f);
  if (status != frame_status::ok) return status;
  out = f;
  consumed = size;
  return frame_status::ok;
}

digest_sum change_of(const digest_key& key, const frame& f, tensor_view live) {
  require_fit(f, live);
  require_absorbing(f);
  if (f.encoding == frame_encoding::full) {
    require_ok(check_payload(f));
    const bytes_view old_bytes{live.bytes.data + f.offset, f.range_bytes};
    return digest_range(key, f.tensor, f.offset, f.payload) -
           digest_range(key, f.tensor, f.offset, old_bytes);
  }
  digest_sum sum;
  require_ok(with_unit(f.unit, [&](auto zero) {
    using element = decltype(zero);
    change_sum<element> changes(key, f, live);
    const frame_status status = walk_raw<element>(f, [&](std::uint64_t position, element value) {
      changes.on_change(f.offset + position * sizeof(element), value);
    });
    sum = changes.finish();
    return status;
  }));
  return sum;
}

void mark_elements(const frame& f, std::vector<std::uint64_t>& marks) {
  const std::size_t elements = f.range_bytes / f.unit;
  if (elements > marks.size() * 64)
    throw std::invalid_argument("frame: more elements than there are marks");
  if (f.encoding == frame_encoding::coded)
    throw std::invalid_argument("frame: coded, and not staged");
  if (f.encoding == frame_encoding::full) {
    for (std::size_t i = 0; i < elements / 64; ++i) marks[i] = ~std::uint64_t{0};
    if (elements % 64 != 0) marks[elements / 64] |= (std::uint64_t{1} << elements % 64) - 1;
    return;
  }
  require_ok(with_unit(f.unit, [&](auto zero) {
    return walk_raw<decltype(zero)>(f, [&](std::uint64_t position, decltype(zero)) {
      marks[static_cast<std::size_t>(position / 64)] |= std::uint64_t{1} << position % 64;
    });
  }));
}

void apply_frame(const frame& f, tensor_span live) {
  require_fit(f, live);
  require_absorbing(f);
  std::byte* const range = live.bytes.data + f.offset;
  if (f.encoding == frame_encoding::full) {
    require_ok(check_payload(f));
    std::memcpy(range, f.payload.data, f.payload.size);
    return;
  }
  require_ok(with_unit(f.unit, [&](auto zero) {
    using element = decltype(zero);
    pending_changes<element> pending(range);
    const auto write_all = [&] {
      pending.take_all([range](std::uint64_t byte, element value) {
        std::memcpy(range + byte, &value, sizeof value);
      });
    };
    const frame_status status = walk_raw<element>(f, [&](std::uint64_t position, element value) {
      if (pending.add(position * sizeof(element), value)) write_all();
    });
    write_all();
    return status;
  }));
}

}  // namespace lockstep::kernels
