// Decides how frames are gathered into buckets, and found in them again. Private to weights/.
#pragma once

#include <string>
#include <type_traits>
#include <utility>

#include "kernels/frame.hpp"
#include "weights/bucket_codec.hpp"

namespace lockstep {

inline bucket_failure failed_at(std::size_t byte, kernels::frame_status status) {
  return {status == kernels::frame_status::bad_checksum ? errc::bad_checksum : errc::bad_frame,
          std::string("frame at byte ") + std::to_string(byte) + ": " + kernels::to_string(status)};
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
  packer(manifest& content, std::uint64_t bucket_bytes_max)
      : content_(content), bucket_bytes_max_(bucket_bytes_max) {}

  /// Takes over the frame in `frame`, leaving it empty.
  void add(std::vector<std::byte>& frame) {
    if (!open_.empty() && open_.size() + frame.size() > bucket_bytes_max_) close();
    if (open_.empty()) {
      open_.swap(frame);
    } else {
      open_.insert(open_.end(), frame.begin(), frame.end());
    }
    frame.clear();
  }

  std::vector<payload> finish() {
    if (!open_.empty()) close();
    return std::move(buckets_);
  }

 private:
  void close() {
    open_.shrink_to_fit();
    payload bucket(std::exchange(open_, {}));
    content_.buckets.push_back({bucket.size(), hash_of(bucket)});
    content_.bytes += bucket.size();
    buckets_.push_back(std::move(bucket));
  }

  manifest& content_;
  std::uint64_t bucket_bytes_max_;
  std::vector<std::byte> open_;
  std::vector<payload> buckets_;
};

}  // namespace lockstep
