// Decides how frames are gathered into buckets and found in them again, and how passes over all
// weights and frames are shared out. Private to weights/.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include "kernels/frame.hpp"
#include "weights/bucket_codec.hpp"
#include "weights/workers.hpp"

namespace lockstep {

inline digest to_digest(kernels::digest_sum sum) {
  return {sum.lane[0], sum.lane[1]};
}

/// The key of `seed`. The public one is expanded once, since it is asked for at every step of a
/// sync, and never goes: actors may outlive `main`.
inline std::shared_ptr<const kernels::digest_key> key_of(std::uint64_t seed) {
  static const auto& public_key = *new std::shared_ptr<const kernels::digest_key>(
      std::make_shared<const kernels::digest_key>(public_digest_seed));
  return seed == public_digest_seed ? public_key
                                    : std::make_shared<const kernels::digest_key>(seed);
}

/// Calls `visit(tensor, offset)` for each range of a batch.
template <class Visit>
void for_each_range(std::span<const tensor_part> batch, Visit visit) {
  static_assert(batches::bytes_max % kernels::frame_span_bytes_max == 0);
  for (const auto& part : batch)
    for (std::size_t at = 0; at < part.bytes; at += kernels::frame_span_bytes_max)
      visit(part.tensor, part.offset + at);
}

/// The range of a tensor that begins at `offset`.
inline kernels::bytes_view range_at(const kernels::tensor_view& tensor, std::size_t offset) {
  return {tensor.bytes.data + offset,
          std::min(kernels::frame_span_bytes_max, tensor.bytes.size - offset)};
}

/// Calls `job(i, tool)` for `i` below `count` on several threads, each with a Tool of its own,
/// whose working memory serves one job after the other.
template <class Tool, class Job>
void run_jobs(std::size_t count, Job job) {
  std::atomic<std::size_t> next{0};
  on_workers(count, [&] {
    Tool tool{};
    for (std::size_t i = next++; i < count; i = next++) job(i, tool);
  });
}

inline bucket_failure failed_at(std::size_t byte, kernels::frame_status status) {
  return {status == kernels::frame_status::bad_checksum ? errc::bad_checksum : errc::bad_frame,
          std::string("frame at byte ") + std::to_string(byte) + ": " + kernels::to_string(status)};
}

/// Which ranges of all weights have a frame: a bit for each MiB, and one for the rest of each
/// tensor. Ranges lie on a grid: those that begin apart are apart, so that what is predicted of
/// frames is what will be written.
class range_claims {
 public:
  explicit range_claims(const tensor_views& tensors) {
    std::size_t count = 0;
    for (const auto& t : tensors) {
      first_.push_back(count);
      count += t.bytes.size / kernels::frame_span_bytes_max + 1;
    }
    claimed_.resize(count);
  }

  /// False if it had one.
  bool claim(std::uint32_t tensor, std::uint64_t offset) {
    auto bit = claimed_[place(tensor, offset)];
    if (bit) return false;
    bit = true;
    return true;
  }
  bool has(std::uint32_t tensor, std::uint64_t offset) const {
    return claimed_[place(tensor, offset)];
  }

 private:
  std::size_t place(std::uint32_t tensor, std::uint64_t offset) const {
    return first_[tensor] + static_cast<std::size_t>(offset / kernels::frame_span_bytes_max);
  }

  std::vector<std::size_t> first_;  ///< bit of each tensor
  std::vector<bool> claimed_;
};

inline constexpr const char* ranges_disordered = "ranges are not in order";
inline constexpr const char* range_twice = "a range is there twice";

struct frame_at {
  kernels::frame frame;
  std::size_t at;  ///< in its bucket
};

/// Appends all frames of `bucket`, coded ones too. Their ranges must ascend, so that there are no
/// more of them than ranges.
inline std::optional<bucket_failure> parse_bucket(const payload& bucket,
                                                  const tensor_views& tensors,
                                                  std::vector<frame_at>& out) {
  for (std::size_t at = 0; at < bucket.size();) {
    kernels::frame frame;
    std::size_t length = 0;
    const auto status =
        kernels::parse_frame({bucket.data() + at, bucket.size() - at}, tensors, frame, length);
    if (status != kernels::frame_status::ok) return failed_at(at, status);
    const auto where = [](const kernels::frame& f) { return std::pair(f.tensor, f.offset); };
    if (!out.empty() && where(frame) <= where(out.back().frame))
      return bucket_failure{errc::bad_frame, ranges_disordered};
    out.push_back({frame, at});
    at += length;
  }
  return std::nullopt;
}

/// Calls `visit(frame)`, or `visit(frame, all its bytes)`, for every frame of `bucket`; stops at
/// the first that is not well formed, or is coded: such a one can be applied only as what
/// `stage_buckets` makes of it.
template <class Visit>
std::optional<bucket_failure> for_each_frame(const payload& bucket, const tensor_views& tensors,
                                             Visit visit) {
  std::size_t at = 0;
  while (at < bucket.size()) {
    kernels::frame frame;
    std::size_t length = 0;
    auto status =
        kernels::parse_frame({bucket.data() + at, bucket.size() - at}, tensors, frame, length);
    if (status == kernels::frame_status::ok && frame.encoding == kernels::frame_encoding::coded)
      status = kernels::frame_status::bad_encoding;
    if (status != kernels::frame_status::ok) return failed_at(at, status);
    bool more = true;
    if constexpr (std::is_invocable_v<Visit, const kernels::frame&, kernels::bytes_view>)
      more = visit(frame, kernels::bytes_view{bucket.data() + at, length});
    else
      more = visit(frame);
    if (!more) break;
    at += length;
  }
  return std::nullopt;
}

/// Gathers frames into buckets.
class packer {
 public:
  packer(manifest& content, const bucket_form& form, bucket_sink closed = {})
      : content_(content), form_(form), closed_(std::move(closed)) {}

  /// Takes over the frame in `frame`, leaving it empty.
  void add(std::vector<std::byte>& frame) {
    if (!open_.empty() && open_.size() + frame.size() > form_.bytes_max) close();
    if (open_.empty()) {
      open_.swap(frame);
    } else {
      open_.insert(open_.end(), frame.begin(), frame.end());
    }
    frame.clear();
  }

  std::vector<payload> finish() {
    if (!open_.empty()) close();
    const auto first = content_.buckets.size() - buckets_.size();
    for_each_index(buckets_.size(), [&](std::size_t i) {
      content_.buckets[first + i].hash = hash_of(buckets_[i], form_.hash);
    });
    return std::move(buckets_);
  }

 private:
  void close() {
    open_.shrink_to_fit();
    payload bucket(std::exchange(open_, {}));
    content_.buckets.push_back({bucket.size(), {}});
    content_.bytes += bucket.size();
    if (closed_) closed_(bucket);
    buckets_.push_back(std::move(bucket));
  }

  manifest& content_;
  bucket_form form_;
  bucket_sink closed_;
  std::vector<std::byte> open_;
  std::vector<payload> buckets_;
};

/// Frames that one job has made, one after the other.
struct batch_frames {
  std::vector<std::byte> bytes;
  std::vector<std::size_t> ends;  ///< of each frame
  std::uint64_t changed = 0;      ///< elements
  kernels::digest_sum state;      ///< of the target, where it is asked for

  /// Whatever stands behind the last end is a frame.
  void end_frame() {
    if (bytes.size() != (ends.empty() ? 0 : ends.back())) ends.push_back(bytes.size());
  }
};

/// Packs the frames of batches in their order, each as soon as it and all before it are made. So
/// nothing is left to pack when the last is, and no more is held than what has overtaken another.
class batch_packer {
 public:
  batch_packer(manifest& content, const bucket_form& form, std::size_t count,
               bucket_sink closed = {})
      : content_(content), pack_(content, form, std::move(closed)), made_(count) {}

  /// Batch `i`, once. On any thread.
  void add(std::size_t i, batch_frames made) {
    std::unique_lock lock(mutex_);
    made_[i] = std::move(made);
    if (std::exchange(packing_, true)) return;  // whoever packs comes to it
    for (; next_ < made_.size() && made_[next_]; ++next_) {
      auto batch = *std::exchange(made_[next_], std::nullopt);
      lock.unlock();
      pack(batch);
      lock.lock();
    }
    packing_ = false;
  }

  /// All batches were added.
  std::vector<payload> finish() { return pack_.finish(); }

 private:
  void pack(const batch_frames& batch) {
    content_.changed += batch.changed;
    std::size_t at = 0;
    for (const auto end : batch.ends) {
      frame_.assign(batch.bytes.begin() + static_cast<std::ptrdiff_t>(at),
                    batch.bytes.begin() + static_cast<std::ptrdiff_t>(end));
      pack_.add(frame_);
      at = end;
    }
  }

  manifest& content_;
  packer pack_;                   // of whoever packs, as the next one is
  std::vector<std::byte> frame_;  // its room serves one frame after the other
  std::mutex mutex_;              // of what follows
  std::vector<std::optional<batch_frames>> made_;
  std::size_t next_ = 0;
  bool packing_ = false;
};

}  // namespace lockstep
