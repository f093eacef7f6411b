#include "weights/change_history.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>
#include <utility>

#include "weights/bucket_parts.hpp"

namespace lockstep {

namespace {

/// A bit for each element of the largest range.
constexpr std::size_t words_max = kernels::frame_span_bytes_max / 64;

using mark_words = std::vector<std::uint64_t>;

template <class Visit>
void for_each_mark(const mark_words& marks, std::size_t words, Visit visit) {
  for (std::size_t i = 0; i < words; ++i)
    for (auto word = marks[i]; word != 0; word &= word - 1)
      visit(i * 64 + static_cast<std::size_t>(std::countr_zero(word)));
}

/// Appends the marks as gaps, seven bits a byte, the low ones first; false, having appended
/// nothing, if a bit for each element is shorter.
bool write_gaps(const mark_words& marks, std::size_t words, std::vector<std::byte>& out) {
  constexpr std::size_t gap_bytes_max = 3;
  static_assert(kernels::frame_span_bytes_max < std::size_t{1} << 7 * gap_bytes_max);
  const auto first = out.size();
  const auto longest = words * sizeof(std::uint64_t);
  out.resize(first + longest + gap_bytes_max);
  auto* const start = out.data() + first;
  auto* to = start;
  std::size_t next = 0;
  for_each_mark(marks, words, [&](std::size_t position) {
    if (to > start + longest) return;
    auto gap = position - next;
    for (; gap >= 0x80; gap >>= 7) *to++ = static_cast<std::byte>((gap & 0x7f) | 0x80);
    *to++ = static_cast<std::byte>(gap);
    next = position + 1;
  });
  const bool fits = to <= start + longest;
  out.resize(fits ? first + static_cast<std::size_t>(to - start) : first);
  return fits;
}

void write_bitmap(const mark_words& marks, std::size_t words, std::vector<std::byte>& out) {
  const auto bytes = std::as_bytes(std::span(marks).first(words));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

/// Sets the marks of a range.
void add_marks(const change_marks& from, const change_marks::range& r, mark_words& to) {
  if (r.bitmap) {
    for (std::size_t i = 0; i < (r.end - r.first) / sizeof(std::uint64_t); ++i) {
      std::uint64_t word = 0;
      std::memcpy(&word, from.bytes.data() + r.first + i * sizeof word, sizeof word);
      to[i] |= word;
    }
    return;
  }
  std::size_t position = 0, gap = 0;
  int shift = 0;
  for (auto at = r.first; at < r.end; ++at) {
    const auto b = std::to_integer<std::size_t>(from.bytes[at]);
    gap |= (b & 0x7f) << shift;
    shift += 7;
    if (b & 0x80) continue;
    position += gap;
    to[position / 64] |= std::uint64_t{1} << position % 64;
    ++position;
    gap = 0;
    shift = 0;
  }
}

std::size_t words_of(std::uint64_t range_bytes, std::uint32_t unit) {
  return static_cast<std::size_t>((range_bytes / unit + 63) / 64);
}

bool before(const change_marks::range& a, const change_marks::range& b) {
  return std::pair(a.tensor, a.offset) < std::pair(b.tensor, b.offset);
}

/// Goes over the ranges of several steps at once, in order.
class range_walk {
 public:
  explicit range_walk(std::vector<const change_marks*> steps)
      : steps_(std::move(steps)), next_(steps_.size()) {}

  /// Sets the marks of all steps in the range at `offset` of `tensor`, after those asked for
  /// before; false if there are none.
  bool gather(std::uint32_t tensor, std::uint64_t offset, mark_words& to) {
    bool any = false;
    for (std::size_t i = 0; i < steps_.size(); ++i) {
      const auto& ranges = steps_[i]->ranges;
      // Tensors that are not asked for are passed over.
      while (next_[i] < ranges.size() && ranges[next_[i]].tensor < tensor) ++next_[i];
      if (next_[i] == ranges.size()) continue;
      const auto& r = ranges[next_[i]];
      if (r.tensor != tensor || r.offset != offset) continue;
      ++next_[i];
      if (!std::exchange(any, true)) std::fill(to.begin(), to.end(), 0);
      add_marks(*steps_[i], r, to);
    }
    return any;
  }

 private:
  std::vector<const change_marks*> steps_;
  std::vector<std::size_t> next_;
};

/// Bytes of the range that differ from the target's in each marked element and in no other.
void unlike(const kernels::tensor_view& target, std::uint64_t offset, std::size_t range,
            const mark_words& marks, std::vector<std::byte>& out) {
  const auto* from = target.bytes.data + offset;
  out.assign(from, from + range);
  for_each_mark(marks, words_of(range, target.unit),
                [&](std::size_t position) { out[position * target.unit] ^= std::byte{1}; });
}

}  // namespace

change_marks marks_of(std::span<const payload> buckets, const tensor_views& tensors) {
  change_marks out;
  mark_words marks(words_max);
  for (const auto& bucket : buckets)
    for_each_frame(bucket, tensors, [&](const kernels::frame& f) {
      const auto words = words_of(f.range_bytes, f.unit);
      std::fill_n(marks.begin(), words, 0);
      kernels::mark_elements(f, marks);
      const auto first = out.bytes.size();
      const bool gaps = write_gaps(marks, words, out.bytes);
      if (!gaps) write_bitmap(marks, words, out.bytes);
      out.ranges.push_back({f.tensor, !gaps, f.offset, first, out.bytes.size()});
      return true;
    });
  std::ranges::sort(out.ranges, before);
  out.bytes.shrink_to_fit();
  out.ranges.shrink_to_fit();
  return out;
}

void change_history::forget() noexcept {
  steps_.clear();
  bytes_ = 0;
}

void change_history::record(const digest& left, change_marks marks) noexcept {
  const auto size = [](const change_marks& m) { return m.size() + sizeof(step); };
  bytes_ += size(marks);
  try {
    steps_.push_back({left, std::move(marks)});
  } catch (const std::bad_alloc&) {
    forget();
  }
  while (!steps_.empty() && (bytes_ > bytes_max_ || steps_.size() > steps_max)) {
    bytes_ -= size(steps_.front().marks);
    steps_.pop_front();
  }
}

std::vector<digest> change_history::states() const {
  std::vector<digest> out;
  for (const auto& s : steps_) out.push_back(s.left);
  return out;
}

std::optional<encoded_delta> change_history::merged(std::size_t steps, const layout& shape,
                                                    const tensor_views& now,
                                                    const bucket_form& form,
                                                    std::uint64_t bytes_max) const {
  if (steps > steps_.size()) return std::nullopt;
  std::vector<const change_marks*> last;
  for (auto i = steps_.size() - steps; i < steps_.size(); ++i) last.push_back(&steps_[i].marks);
  range_walk walk(std::move(last));
  encoded_delta out;
  out.content.layout = shape.fingerprint();
  packer pack(out.content, form);
  mark_words marks(words_max);
  std::vector<std::byte> base, frame;
  std::uint64_t bytes = 0;
  for (std::uint32_t i = 0; i < now.size(); ++i) {
    for (std::size_t at = 0; at < now[i].bytes.size; at += kernels::frame_span_bytes_max) {
      if (!walk.gather(i, at, marks)) continue;
      const auto range = std::min(now[i].bytes.size - at, kernels::frame_span_bytes_max);
      unlike(now[i], at, range, marks, base);
      out.content.changed +=
          kernels::encode_delta_range(i, {base.data(), range}, now[i], at, frame);
      bytes += frame.size();
      if (bytes > bytes_max) return std::nullopt;
      pack.add(frame);
    }
  }
  out.buckets = pack.finish();
  return out;
}

}  // namespace lockstep
