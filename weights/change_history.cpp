#include "weights/change_history.hpp"

#include <algorithm>
#include <atomic>
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

/// Goes over the ranges of several steps at once, in order, from one of them on.
class range_walk {
 public:
  range_walk(std::span<const change_marks* const> steps, const tensor_part& from)
      : steps_(steps), next_(steps.size()) {
    const change_marks::range first{from.tensor, false, from.offset, 0, 0};
    for (std::size_t i = 0; i < steps.size(); ++i)
      next_[i] = static_cast<std::size_t>(
          std::ranges::lower_bound(steps[i]->ranges, first, before) - steps[i]->ranges.begin());
  }

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
  std::span<const change_marks* const> steps_;
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

/// What marks of one range after the other are gathered in.
struct marking {
  mark_words marks = mark_words(words_max);
  std::vector<std::byte> base;
};

change_marks marks_of(const payload& bucket, const tensor_views& tensors, mark_words& marks) {
  change_marks out;
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
  return out;
}

}  // namespace

change_marks marks_of(std::span<const payload> buckets, const tensor_views& tensors) {
  std::vector<change_marks> each(buckets.size());
  run_jobs<marking>(buckets.size(), [&](std::size_t i, marking& tool) {
    each[i] = marks_of(buckets[i], tensors, tool.marks);
  });
  change_marks out;
  std::size_t bytes = 0, ranges = 0;
  for (const auto& m : each) {
    bytes += m.bytes.size();
    ranges += m.ranges.size();
  }
  out.bytes.reserve(bytes);
  out.ranges.reserve(ranges);
  for (auto& m : each) {
    const auto first = out.bytes.size();
    out.bytes.insert(out.bytes.end(), m.bytes.begin(), m.bytes.end());
    for (auto r : m.ranges) {
      r.first += first;
      r.end += first;
      out.ranges.push_back(r);
    }
    m = {};
  }
  std::ranges::sort(out.ranges, before);
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
  const batches all(now);
  encoded_delta out;
  out.content.layout = shape.fingerprint();
  batch_packer pack(out.content, form, all.count());
  std::atomic<std::uint64_t> bytes{0};
  run_jobs<marking>(all.count(), [&](std::size_t b, marking& tool) {
    if (bytes > bytes_max) return;  // it is in vain
    range_walk walk(last, all[b].front());
    batch_frames frames;
    for_each_range(all[b], [&](std::uint32_t i, std::size_t at) {
      if (!walk.gather(i, at, tool.marks)) return;
      const auto range = range_at(now[i], at);
      unlike(now[i], at, range.size, tool.marks, tool.base);
      frames.changed +=
          kernels::encode_delta_range(i, {tool.base.data(), range.size}, now[i], at, frames.bytes);
      frames.end_frame();
    });
    bytes += frames.bytes.size();
    pack.add(b, std::move(frames));
  });
  if (bytes > bytes_max) return std::nullopt;
  out.buckets = pack.finish();
  return out;
}

}  // namespace lockstep
