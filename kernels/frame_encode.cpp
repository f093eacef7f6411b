#include <array>
#include <stdexcept>

#include "kernels/frame_layout.hpp"
#include "kernels/inner_loops.hpp"

namespace lockstep::kernels {
namespace {

// Compared, then encoded, while still in the first-level cache.
constexpr std::size_t chunk_bytes = 16384;
constexpr std::size_t chunk_blocks = chunk_bytes / block_bytes;
// Every byte an element that changed, and the escapes of the one long gap that can lead here.
constexpr std::size_t chunk_payload_bytes_max =
    chunk_bytes * (gap_bytes + 1) + gap_bytes * (frame_span_bytes_max / gap_escape + 1);

template <class T>
std::byte* store(std::byte* to, T value) noexcept {
  std::memcpy(to, &value, sizeof value);
  return to + sizeof value;
}

void store_3(std::byte* to, std::uint32_t value) noexcept {
  std::memcpy(to, &value, 3);
}

/// From one bit per byte to one bit per element: the bit of the element's first byte.
template <class T>
std::uint64_t fold(std::uint64_t mask) noexcept {
  if constexpr (sizeof(T) >= 2) mask |= mask >> 1;
  if constexpr (sizeof(T) >= 4) mask |= mask >> 2;
  if constexpr (sizeof(T) >= 8) mask |= mask >> 4;
  if constexpr (sizeof(T) == 2) mask &= 0x5555555555555555;
  if constexpr (sizeof(T) == 4) mask &= 0x1111111111111111;
  if constexpr (sizeof(T) == 8) mask &= 0x0101010101010101;
  return mask;
}

/// The changed blocks of one chunk: their byte masks, and where they are.
struct changed_blocks {
  std::array<std::uint64_t, chunk_blocks> masks;
  std::array<std::uint16_t, chunk_blocks> where;
  std::size_t count = 0;

  void find(const inner_loops& loops, const std::byte* base, const std::byte* target,
            std::size_t size) noexcept {
    const std::size_t whole = size / block_bytes;
    std::size_t blocks = whole;
    loops.compare(base, target, whole, masks.data());
    if (const std::size_t rest = size % block_bytes; rest != 0) {
      std::byte padded_base[block_bytes] = {};
      std::byte padded_target[block_bytes] = {};
      std::memcpy(padded_base, base + whole * block_bytes, rest);
      std::memcpy(padded_target, target + whole * block_bytes, rest);
      loops.compare(padded_base, padded_target, 1, &masks[blocks++]);
    }
    // Without a branch: whether a block changed is not predictable.
    count = 0;
    for (std::size_t i = 0; i < blocks; ++i) {
      where[count] = static_cast<std::uint16_t>(i);
      count += masks[i] != 0;
    }
  }
};

/// Writes the raw payload of one range, chunk by chunk, until it is no shorter than the range
/// itself; from then on it only counts.
template <class T>
class raw_writer {
 public:
  raw_writer(const inner_loops& loops, bytes_view base, bytes_view target,
             std::vector<std::byte>& out) noexcept
      : loops_(loops), base_(base), target_(target), out_(out), start_(out.size()) {}

  /// @returns whether the payload stands in `out`; if not, `out` has its old length.
  bool run() {
    bool fits = true;
    for (std::size_t at = 0; at < target_.size; at += chunk_bytes) {
      const std::size_t size = std::min(chunk_bytes, target_.size - at);
      changed_.find(loops_, base_.data + at, target_.data + at, size);
      if (changed_.count == 0) continue;
      if (!fits) {
        count_chunk();
        continue;
      }
      const std::size_t written = write_chunk(at);
      fits = out_.size() - start_ + written < target_.size;
      if (fits)
        out_.insert(out_.end(), scratch_.data(), scratch_.data() + written);
      else
        out_.resize(start_);
    }
    return fits;
  }

  std::uint32_t count() const noexcept { return count_; }

 private:
  void count_chunk() noexcept {
    for (std::size_t i = 0; i < changed_.count; ++i)
      count_ += static_cast<std::uint32_t>(
          __builtin_popcountll(fold<T>(changed_.masks[changed_.where[i]])));
  }

  std::size_t write_chunk(std::size_t chunk) noexcept {
    std::byte* to = scratch_.data();
    std::size_t next = next_;
    std::uint32_t count = 0;
    for (std::size_t i = 0; i < changed_.count; ++i) {
      const std::size_t block = changed_.where[i];
      const std::byte* const elements = target_.data + chunk + block * block_bytes;
      const std::size_t first = (chunk + block * block_bytes) / sizeof(T);
      std::uint64_t mask = fold<T>(changed_.masks[block]);
      do {
        const auto byte = static_cast<std::size_t>(__builtin_ctzll(mask));
        const std::size_t position = first + byte / sizeof(T);
        std::size_t gap = position - next;
        for (; gap >= gap_escape; gap -= gap_escape) to = store(to, gap_escape);
        to = store(to, static_cast<std::uint16_t>(gap));
        to = store(to, load<T>(elements + byte));
        next = position + 1;
        ++count;
        mask &= mask - 1;
      } while (mask != 0);
    }
    next_ = next;
    count_ += count;
    return static_cast<std::size_t>(to - scratch_.data());
  }

  const inner_loops& loops_;
  const bytes_view base_;
  const bytes_view target_;
  std::vector<std::byte>& out_;
  const std::size_t start_;
  std::size_t next_ = 0;  // the element after the last change
  std::uint32_t count_ = 0;
  changed_blocks changed_;
  std::array<std::byte, chunk_payload_bytes_max> scratch_;
};

template <class T>
bool write_raw(bytes_view base, bytes_view target, std::vector<std::byte>& out,
               std::uint32_t& count) {
  raw_writer<T> writer(active_loops(), base, target, out);
  const bool fits = writer.run();
  count = writer.count();
  return fits;
}

}  // namespace

void write_header(std::vector<std::byte>& out, std::size_t start, const frame& f) noexcept {
  std::byte* const header = out.data() + start;
  const std::size_t size = out.size() - start;
  store(header + field::magic, frame_magic);
  store(header + field::encoding, f.encoding);
  store(header + field::unit, static_cast<std::uint8_t>(f.unit));
  store(header + field::tensor, f.tensor);
  store_3(header + field::range, static_cast<std::uint32_t>(f.offset / frame_span_bytes_max));
  store_3(header + field::count, f.count);
  store(header + field::payload_bytes, static_cast<std::uint32_t>(size - frame_header_bytes));
  store(header + field::checksum, frame_checksum({header, size}));
}

void require_range(const tensor_view& tensor, std::size_t offset) {
  if (!is_framable(tensor))
    throw std::invalid_argument(
        "frame: the unit is not 1, 2, 4 or 8, or does not divide the size, or it is too large");
  if (offset % frame_span_bytes_max != 0 || offset > tensor.bytes.size ||
      (offset == tensor.bytes.size && offset != 0))
    throw std::invalid_argument("frame: the offset starts no range of the tensor");
}

std::uint64_t encode_delta(std::uint32_t tensor, tensor_view base, tensor_view target,
                           std::size_t offset, std::vector<std::byte>& out) {
  if (base.bytes.size != target.bytes.size || base.unit != target.unit)
    throw std::invalid_argument("frame: base and target differ in size or unit");
  require_range(target, offset);
  if (target.bytes.size == 0) return 0;

  frame f;
  f.unit = target.unit;
  f.tensor = tensor;
  f.offset = offset;
  f.range_bytes = range_bytes_at(target.bytes.size, offset);
  const bytes_view from{base.bytes.data + offset, f.range_bytes};
  const bytes_view to{target.bytes.data + offset, f.range_bytes};

  const std::size_t start = out.size();
  out.resize(start + frame_header_bytes);
  bool fits = false;
  with_unit(target.unit,
            [&](auto zero) { fits = write_raw<decltype(zero)>(from, to, out, f.count); });
  if (!fits || f.count == 0) out.resize(start);
  if (!fits)
    encode_full(tensor, target, offset, out);
  else if (f.count != 0)
    write_header(out, start, f);
  return f.count;
}

void encode_full(std::uint32_t tensor, tensor_view target, std::size_t offset,
                 std::vector<std::byte>& out) {
  require_range(target, offset);
  if (target.bytes.size == 0) return;

  frame f;
  f.encoding = frame_encoding::full;
  f.unit = target.unit;
  f.tensor = tensor;
  f.offset = offset;
  f.range_bytes = range_bytes_at(target.bytes.size, offset);
  f.count = f.range_bytes / f.unit;
  const std::size_t start = out.size();
  out.resize(start + frame_header_bytes);
  const std::byte* const range = target.bytes.data + offset;
  out.insert(out.end(), range, range + f.range_bytes);
  write_header(out, start, f);
}

}  // namespace lockstep::kernels
