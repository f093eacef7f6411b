#include "weights/bucket_codec.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "kernels/frame.hpp"
#include "kernels/hash.hpp"

namespace lockstep {

namespace {

digest to_digest(kernels::digest_sum sum) {
  return {sum.lane[0], sum.lane[1]};
}

/// Calls `work(key)` with the key of `seed`. The public one is expanded once: it is asked for at
/// every step of a sync.
template <class Work>
auto with_key(std::uint64_t seed, Work work) {
  static const kernels::digest_key public_key(public_digest_seed);
  return seed == public_digest_seed ? work(public_key) : work(kernels::digest_key(seed));
}

bucket_failure failed_at(std::size_t byte, kernels::frame_status status) {
  return {status == kernels::frame_status::bad_checksum ? errc::bad_checksum : errc::bad_frame,
          std::string("frame at byte ") + std::to_string(byte) + ": " + kernels::to_string(status)};
}

/// Calls `visit(frame)` for every frame of `bucket`; stops at the first that is not well formed, or
/// is coded: such a one can be applied only as what `delta_stager` makes of it.
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
    if (!visit(frame)) break;
    at += length;
  }
  return std::nullopt;
}

using range_of_tensor = std::pair<std::uint32_t, std::uint64_t>;

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

/// What one thread encodes at a time: consecutive ranges of about this many bytes, of one tensor or
/// of several.
constexpr std::size_t slice_bytes = std::size_t{4} << 20;

struct slice {
  std::size_t tensor = 0;  ///< of the first range
  std::size_t offset = 0;
  std::size_t ranges = 0;
};

/// Cuts all ranges of all tensors, in order. Large tensors are split, small ones put together.
std::vector<slice> slices_of(const tensor_views& tensors) {
  std::vector<slice> out;
  std::size_t room = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::size_t size = tensors[i].bytes.size;
    for (std::size_t at = 0; at < size; at += kernels::frame_span_bytes_max) {
      if (room == 0) {
        out.push_back({i, at, 0});
        room = slice_bytes;
      }
      ++out.back().ranges;
      room -= std::min(room, std::min(kernels::frame_span_bytes_max, size - at));
    }
  }
  return out;
}

/// Calls `visit(tensor, offset)` for each range of `which`.
template <class Visit>
void for_each_range(const slice& which, const tensor_views& tensors, Visit visit) {
  std::size_t tensor = which.tensor;
  std::size_t at = which.offset;
  for (std::size_t left = which.ranges; left > 0; --left) {
    while (at >= tensors[tensor].bytes.size) {
      ++tensor;
      at = 0;
    }
    visit(tensor, at);
    at += kernels::frame_span_bytes_max;
  }
}

struct stage_totals {
  kernels::staged_digest digest;
  std::vector<range_of_tensor> seen;
};

std::optional<bucket_failure> stage_bucket(const kernels::digest_key& key, const payload& bucket,
                                           const tensor_views& tensors,
                                           kernels::frame_stager& stager, payload& staged,
                                           stage_totals& totals) {
  std::vector<std::byte> out;
  stage_totals added;
  for (std::size_t at = 0; at < bucket.size();) {
    kernels::frame frame;
    std::size_t length = 0;
    auto status =
        kernels::parse_frame({bucket.data() + at, bucket.size() - at}, tensors, frame, length);
    if (status == kernels::frame_status::ok)
      status = stager.stage(key, frame, tensors[frame.tensor], out, added.digest);
    if (status != kernels::frame_status::ok) return failed_at(at, status);
    added.seen.emplace_back(frame.tensor, frame.offset);
    at += length;
  }
  out.shrink_to_fit();
  staged = payload(std::move(out));
  totals.digest.base += added.digest.base;
  totals.digest.change += added.digest.change;
  totals.seen.insert(totals.seen.end(), added.seen.begin(), added.seen.end());
  return std::nullopt;
}

/// Digest of the ranges of `which` that are not among `seen`, which ascend.
kernels::digest_sum digest_of_rest(const kernels::digest_key& key, const slice& which,
                                   const tensor_views& tensors,
                                   const std::vector<range_of_tensor>& seen) {
  kernels::digest_sum sum;
  for_each_range(which, tensors, [&](std::size_t i, std::size_t at) {
    const auto tensor = static_cast<std::uint32_t>(i);
    if (std::ranges::binary_search(seen, range_of_tensor{tensor, at})) return;
    const auto bytes = tensors[i].bytes;
    const auto size = std::min(kernels::frame_span_bytes_max, bytes.size - at);
    sum += kernels::digest_range(key, tensor, at, {bytes.data + at, size});
  });
  return sum;
}

struct slice_frames {
  std::vector<std::byte> bytes;
  std::vector<std::size_t> ends;  ///< of each frame
  std::uint64_t changed = 0;
};

slice_frames encode_slice(const slice& which, const tensor_views& base, const tensor_views& target,
                          const std::vector<kernels::class_model>& models,
                          kernels::encoding_choice choice, kernels::delta_encoder& encoder) {
  slice_frames out;
  for_each_range(which, base, [&](std::size_t i, std::size_t at) {
    out.changed += encoder.encode(static_cast<std::uint32_t>(i), base[i], target[i], at, models[i],
                                  choice, out.bytes);
    if (out.bytes.size() != (out.ends.empty() ? 0 : out.ends.back()))
      out.ends.push_back(out.bytes.size());
  });
  return out;
}

/// Calls `job(i, worker)` for `i` below `count`, on up to `threads` threads with a Worker each,
/// this one among them. Rethrows what a job throws, when all have ended.
template <class Worker, class Job>
void run_jobs(std::size_t count, unsigned threads, Job job) {
  std::atomic<std::size_t> next{0};
  std::exception_ptr failure;
  std::mutex mutex;
  const auto work = [&] {
    try {
      Worker worker{};
      for (std::size_t i = next++; i < count; i = next++) job(i, worker);
    } catch (...) {
      const std::lock_guard lock(mutex);
      failure = std::current_exception();
      next = count;
    }
  };
  {
    std::vector<std::jthread> others;
    for (std::size_t i = 1; i < std::min<std::size_t>(threads, count); ++i)
      others.emplace_back(work);
    work();
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace

tensor_views as_views(const tensor_spans& tensors) {
  return {tensors.begin(), tensors.end()};
}

digest digest_of(std::uint64_t seed, const tensor_views& tensors) {
  return with_key(seed, [&](const kernels::digest_key& key) {
    kernels::digest_sum sum;
    for (std::size_t i = 0; i < tensors.size(); ++i)
      sum += kernels::digest_tensor(key, static_cast<std::uint32_t>(i), tensors[i].bytes);
    return to_digest(sum);
  });
}

std::vector<digest> digests_of(std::uint64_t seed, const tensor_views& tensors) {
  return with_key(seed, [&](const kernels::digest_key& key) {
    std::vector<digest> out;
    for (std::size_t i = 0; i < tensors.size(); ++i)
      out.push_back(
          to_digest(kernels::digest_tensor(key, static_cast<std::uint32_t>(i), tensors[i].bytes)));
    return out;
  });
}

hash128 hash_of(const payload& bucket) {
  const auto hash = kernels::hash_bytes({bucket.data(), bucket.size()});
  return {hash.hi, hash.lo};
}

encoded_delta encode_delta(const layout& shape, const tensor_views& base,
                           const tensor_views& target, std::uint64_t bucket_bytes_max,
                           const delta_options& options) {
  encoded_delta out;
  out.content.layout = shape.fingerprint();
  packer pack(out.content, bucket_bytes_max);
  const auto slices = slices_of(base);
  std::vector<kernels::class_model> models(base.size());
  if (options.choice == kernels::encoding_choice::coded)
    run_jobs<kernels::delta_encoder>(base.size(), options.threads, [&](std::size_t i, auto&) {
      models[i] = kernels::plan_classes(base[i], target[i]);
    });
  std::vector<slice_frames> made(slices.size());
  run_jobs<kernels::delta_encoder>(
      slices.size(), options.threads, [&](std::size_t i, auto& encoder) {
        made[i] = encode_slice(slices[i], base, target, models, options.choice, encoder);
      });
  std::vector<std::byte> frame;
  for (auto& slice : made) {
    out.content.changed += slice.changed;
    std::size_t at = 0;
    for (const auto end : slice.ends) {
      frame.assign(slice.bytes.begin() + static_cast<std::ptrdiff_t>(at),
                   slice.bytes.begin() + static_cast<std::ptrdiff_t>(end));
      pack.add(frame);
      at = end;
    }
    slice = {};
  }
  out.buckets = pack.finish();
  return out;
}

full_plan::full_plan(const layout& shape, const tensor_views& tensors,
                     std::uint64_t bucket_bytes_max)
    : bucket_bytes_max_(bucket_bytes_max) {
  content_.layout = shape.fingerprint();
  for (const auto& t : tensors) content_.changed += t.bytes.size / t.unit;
  std::vector<std::byte> bytes;
  for (position at;;) {
    bytes.clear();
    const auto next = fill(at, tensors, bytes);
    if (bytes.empty()) break;
    const auto hash = kernels::hash_bytes({bytes.data(), bytes.size()});
    starts_.push_back(at);
    content_.buckets.push_back({bytes.size(), {hash.hi, hash.lo}});
    content_.bytes += bytes.size();
    at = next;
  }
}

full_plan::position full_plan::fill(position from, const tensor_views& tensors,
                                    std::vector<std::byte>& out) const {
  while (from.tensor < tensors.size()) {
    const auto& t = tensors[from.tensor];
    if (from.offset >= t.bytes.size) {
      from = {from.tensor + 1, 0};
      continue;
    }
    const auto range =
        std::min<std::uint64_t>(t.bytes.size - from.offset, kernels::frame_span_bytes_max);
    if (!out.empty() && out.size() + kernels::frame_header_bytes + range > bucket_bytes_max_) break;
    kernels::encode_full(from.tensor, t, static_cast<std::size_t>(from.offset), out);
    from.offset += kernels::frame_span_bytes_max;
  }
  return from;
}

payload full_plan::make(std::size_t index, const tensor_views& tensors) const {
  std::vector<std::byte> bytes;
  bytes.reserve(static_cast<std::size_t>(content_.buckets[index].bytes));
  fill(starts_[index], tensors, bytes);
  return payload(std::move(bytes));
}

std::optional<bucket_failure> check_buckets(std::span<const payload> buckets,
                                            const tensor_views& tensors) {
  // Ranges lie on a grid: those that begin apart are apart, so that what is predicted is what will
  // be written. Within a bucket they ascend; over all of them only where the trainer has one rank.
  std::vector<range_of_tensor> seen;
  bool all_ascend = true;
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    bool ascending = true;
    const auto first_here = seen.size();
    auto failure = for_each_frame(buckets[i], tensors, [&](const kernels::frame& f) {
      const range_of_tensor at{f.tensor, f.offset};
      const bool follows = seen.empty() || seen.back() < at;
      ascending = follows || seen.size() == first_here;
      all_ascend = all_ascend && follows;
      seen.push_back(at);
      return ascending;
    });
    if (!ascending) failure = bucket_failure{errc::bad_frame, "ranges are not in order"};
    if (failure) {
      failure->detail = "bucket " + std::to_string(i) + ", " + failure->detail;
      return failure;
    }
  }
  if (all_ascend) return std::nullopt;
  std::ranges::sort(seen);
  if (std::ranges::adjacent_find(seen) == seen.end()) return std::nullopt;
  return bucket_failure{errc::bad_frame, "a range is there twice"};
}

digest predict(std::uint64_t seed, const digest& base, std::span<const payload> buckets,
               const tensor_views& tensors) {
  return with_key(seed, [&](const kernels::digest_key& key) {
    kernels::digest_sum sum{{base.lane0, base.lane1}};
    for (const auto& bucket : buckets)
      for_each_frame(bucket, tensors, [&](const kernels::frame& f) {
        sum += kernels::change_of(key, f, tensors[f.tensor]);
        return true;
      });
    return to_digest(sum);
  });
}

std::optional<bucket_failure> apply_bucket(const payload& bucket, const tensor_spans& tensors,
                                           std::vector<std::size_t>& touched,
                                           std::size_t frames_max) {
  return for_each_frame(bucket, as_views(tensors), [&](const kernels::frame& f) {
    if (frames_max == 0) return false;
    --frames_max;
    kernels::apply_frame(f, tensors[f.tensor]);
    const std::size_t index = f.tensor;
    const auto at = std::lower_bound(touched.begin(), touched.end(), index);
    if (at == touched.end() || *at != index) touched.insert(at, index);
    return true;
  });
}

std::size_t count_frames(const payload& bucket, const tensor_views& tensors) {
  std::size_t count = 0;
  for_each_frame(bucket, tensors, [&](const auto&) { return ++count != 0; });
  return count;
}

std::optional<bucket_failure> stage_buckets(std::uint64_t seed, std::span<payload> buckets,
                                            const tensor_views& tensors, unsigned threads,
                                            staged_states& states) {
  return with_key(seed, [&](const kernels::digest_key& key) -> std::optional<bucket_failure> {
    std::vector<stage_totals> totals(buckets.size());
    std::vector<std::optional<bucket_failure>> failures(buckets.size());
    run_jobs<kernels::frame_stager>(
        buckets.size(), threads, [&](std::size_t i, kernels::frame_stager& stager) {
          failures[i] = stage_bucket(key, buckets[i], tensors, stager, buckets[i], totals[i]);
        });
    kernels::staged_digest sum;
    std::vector<range_of_tensor> seen;
    for (std::size_t i = 0; i < buckets.size(); ++i) {
      if (failures[i]) {
        failures[i]->detail = "bucket " + std::to_string(i) + ", " + failures[i]->detail;
        return failures[i];
      }
      sum.base += totals[i].digest.base;
      sum.change += totals[i].digest.change;
      seen.insert(seen.end(), totals[i].seen.begin(), totals[i].seen.end());
    }
    std::ranges::sort(seen);
    const auto slices = slices_of(tensors);
    std::vector<kernels::digest_sum> rest(slices.size());
    run_jobs<int>(slices.size(), threads, [&](std::size_t i, int) {
      rest[i] = digest_of_rest(key, slices[i], tensors, seen);
    });
    for (const auto& part : rest) sum.base += part;
    states = {to_digest(sum.base), to_digest(sum.base + sum.change)};
    return std::nullopt;
  });
}

delta_stager::delta_stager(std::uint64_t seed, tensor_views tensors)
    : key_(seed), tensors_(std::move(tensors)) {}

std::optional<bucket_failure> delta_stager::stage(const payload& bucket, payload& staged) {
  stage_totals added;
  auto failure = stage_bucket(key_, bucket, tensors_, stager_, staged, added);
  digest_.base += added.digest.base;
  digest_.change += added.digest.change;
  seen_.insert(seen_.end(), added.seen.begin(), added.seen.end());
  return failure;
}

staged_states delta_stager::finish() {
  std::ranges::sort(seen_);
  for (const auto& s : slices_of(tensors_))
    digest_.base += digest_of_rest(key_, s, tensors_, seen_);
  return {to_digest(digest_.base), to_digest(digest_.base + digest_.change)};
}

}  // namespace lockstep
