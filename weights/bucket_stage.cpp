// Decides how the buckets of a delta become absorbing ones while the base is read once.
#include <algorithm>
#include <array>
#include <atomic>
#include <utility>

#include "weights/bucket_parts.hpp"
#include "weights/bucket_stager.hpp"
#include "weights/workers.hpp"

namespace lockstep {

namespace {

using stager = kernels::frame_stager;

/// What is digested under; the second is there or is not.
class staging_keys {
 public:
  staging_keys(std::uint64_t first, std::optional<std::uint64_t> second)
      : first_(key_of(first)), count_(second ? 2 : 1) {
    if (second) second_ = key_of(*second);
  }

  std::size_t count() const noexcept { return count_; }
  const kernels::digest_key& operator[](std::size_t i) const noexcept {
    return i == 0 ? *first_ : *second_;
  }

 private:
  std::shared_ptr<const kernels::digest_key> first_, second_;
  std::size_t count_;
};

/// What weights are, and by how much frames change it, under each key.
using staged_sums = std::array<kernels::staged_digest, stager::digests_max>;

void add(staged_sums& to, const staged_sums& from) {
  for (std::size_t i = 0; i < to.size(); ++i) {
    to[i].base += from[i].base;
    to[i].change += from[i].change;
  }
}

/// What staged buckets may still grow to. A coded frame of some bytes can stand for a range of a
/// MiB, and a peer may send many.
struct staging_room {
  explicit staging_room(std::uint64_t bytes) : left(bytes) {}
  bool take(std::uint64_t bytes) noexcept {
    auto now = left.load();
    while (now >= bytes)
      if (left.compare_exchange_weak(now, now - bytes)) return true;
    return false;
  }
  std::atomic<std::uint64_t> left;
};

/// Some frames of a bucket that follow each other, and what becomes of them.
struct stage_job {
  std::size_t bucket = 0;
  std::span<const frame_at> frames;
  std::vector<std::byte> staged;
  staged_sums sums;
  std::optional<bucket_failure> failure;
};

void stage(const staging_keys& keys, const tensor_views& tensors, stager& tool, staging_room& room,
           stage_job& job) {
  std::array<kernels::keyed_digest, stager::digests_max> digests{};
  for (std::size_t i = 0; i < keys.count(); ++i) digests[i].key = &keys[i];
  std::size_t taken = 0;
  for (const auto& [frame, at] : job.frames) {
    const auto status =
        tool.stage(digests.data(), keys.count(), frame, tensors[frame.tensor], job.staged);
    if (status != kernels::frame_status::ok) {
      job.failure = failed_at(at, status);
      return;
    }
    if (!room.take(job.staged.size() - taken)) {
      job.failure = bucket_failure{errc::bad_manifest, "staged, it is larger than may be held"};
      return;
    }
    taken = job.staged.size();
  }
  for (std::size_t i = 0; i < keys.count(); ++i) job.sums[i] = digests[i].sum;
}

/// Frames that one thread takes at a time: few, since each stands for up to a MiB of weights, and a
/// bucket of coded frames may be all of a model's delta; and fewer where there are not enough of
/// them to keep all threads busy, as in one bucket of raw ones.
std::size_t job_frames(const std::vector<std::vector<frame_at>>& frames) {
  constexpr std::size_t most = 4;
  constexpr std::size_t jobs_per_thread = 4;
  std::size_t all = 0;
  for (const auto& of_bucket : frames) all += of_bucket.size();
  return std::clamp<std::size_t>(all / (jobs_per_thread * workers()), 1, most);
}

std::vector<stage_job> jobs_of(const std::vector<std::vector<frame_at>>& frames) {
  std::vector<stage_job> out;
  const auto most = job_frames(frames);
  for (std::size_t i = 0; i < frames.size(); ++i)
    for (std::size_t at = 0; at < frames[i].size(); at += most) {
      stage_job job;
      job.bucket = i;
      job.frames = std::span(frames[i]).subspan(at, std::min(most, frames[i].size() - at));
      out.push_back(std::move(job));
    }
  return out;
}

/// Digests of the ranges of `which` that no frame was for.
staged_sums digest_rest(const staging_keys& keys, std::span<const tensor_part> which,
                        const tensor_views& tensors, const range_claims& claims) {
  staged_sums sums;
  for_each_range(which, [&](std::uint32_t tensor, std::size_t at) {
    if (claims.has(tensor, at)) return;
    const auto range = range_at(tensors[tensor], at);
    // Tile by tile: what one key reads is in the cache for the next.
    for (std::size_t tile = 0; tile < range.size; tile += kernels::digest_tile_bytes)
      for (std::size_t i = 0; i < keys.count(); ++i)
        sums[i].base += kernels::digest_range(
            keys[i], tensor, at + tile,
            {range.data + tile, std::min(kernels::digest_tile_bytes, range.size - tile)});
  });
  return sums;
}

/// How many of the first buckets are staged at a time: their frames are held meanwhile, and those
/// of a hostile bucket take a few times as much as the bucket.
std::size_t window_of(std::span<const payload> buckets) {
  constexpr std::size_t window_bytes = 64 << 20;
  std::size_t count = 0;
  for (std::size_t bytes = 0; count < buckets.size() && bytes < window_bytes; ++count)
    bytes += buckets[count].size();
  return count;
}

/// Stages these buckets in place; which of them failed, and why, if one did.
std::optional<std::pair<std::size_t, bucket_failure>> stage_window(
    const staging_keys& keys, std::span<payload> buckets, const tensor_views& tensors,
    staging_room& room, staged_sums& sums, range_claims& claims) {
  std::vector<std::vector<frame_at>> frames(buckets.size());
  std::vector<std::optional<bucket_failure>> failures(buckets.size());
  for_each_index(buckets.size(), [&](std::size_t i) {
    failures[i] = parse_bucket(buckets[i], tensors, frames[i]);
  });
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    if (failures[i]) return std::pair(i, *failures[i]);
    // Before the work for any of them: few bytes of a frame stand for a range of a MiB.
    for (const auto& [frame, at] : frames[i])
      if (!claims.claim(frame.tensor, frame.offset))
        return std::pair(i, bucket_failure{errc::bad_frame, range_twice});
  }
  auto jobs = jobs_of(frames);
  run_jobs<stager>(jobs.size(),
                   [&](std::size_t i, auto& tool) { stage(keys, tensors, tool, room, jobs[i]); });
  std::vector<std::size_t> sizes(buckets.size());
  for (const auto& job : jobs) {
    if (job.failure) return std::pair(job.bucket, *job.failure);
    sizes[job.bucket] += job.staged.size();
    add(sums, job.sums);
  }
  auto job = jobs.begin();
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    std::vector<std::byte> staged;
    staged.reserve(sizes[i]);
    for (; job != jobs.end() && job->bucket == i; ++job) {
      staged.insert(staged.end(), job->staged.begin(), job->staged.end());
      job->staged = {};
    }
    buckets[i] = payload(std::move(staged));
  }
  return std::nullopt;
}

}  // namespace

struct bucket_stager::staging {
  staging(staging_keys under, tensor_views of, std::uint64_t bytes_max)
      : keys(std::move(under)), tensors(std::move(of)), room(bytes_max), claims(tensors) {}

  staging_keys keys;
  tensor_views tensors;
  staging_room room;
  staged_sums sums;
  range_claims claims;
};

bucket_stager::bucket_stager(std::uint64_t seed, tensor_views tensors, std::uint64_t bytes_max,
                             std::optional<std::uint64_t> other_seed)
    : staging_(new staging(staging_keys(seed, other_seed), std::move(tensors), bytes_max)) {}
bucket_stager::bucket_stager(bucket_stager&&) noexcept = default;
bucket_stager& bucket_stager::operator=(bucket_stager&&) noexcept = default;
bucket_stager::~bucket_stager() = default;

std::optional<bucket_failure> bucket_stager::stage(std::span<payload> buckets, std::size_t first) {
  auto& s = *staging_;
  for (std::size_t from = 0; from < buckets.size();) {
    const auto some = buckets.subspan(from, window_of(buckets.subspan(from)));
    if (auto failure = stage_window(s.keys, some, s.tensors, s.room, s.sums, s.claims)) {
      auto& [index, why] = *failure;
      why.detail = "bucket " + std::to_string(first + from + index) + ", " + why.detail;
      return std::move(why);
    }
    from += some.size();
  }
  return std::nullopt;
}

std::optional<bucket_failure> bucket_stager::finish(staged_states& states) {
  auto& s = *staging_;
  const batches all(s.tensors);
  std::vector<staged_sums> rest(all.count());
  for_each_index(all.count(), [&](std::size_t i) {
    rest[i] = digest_rest(s.keys, all[i], s.tensors, s.claims);
  });
  for (const auto& part : rest) add(s.sums, part);
  const auto target = [&](std::size_t i) { return to_digest(s.sums[i].base + s.sums[i].change); };
  states = {to_digest(s.sums[0].base), target(0), to_digest(s.sums[1].base), target(1)};
  return std::nullopt;
}

std::optional<bucket_failure> stage_buckets(std::uint64_t seed, std::span<payload> buckets,
                                            const tensor_views& tensors, std::uint64_t bytes_max,
                                            staged_states& states,
                                            std::optional<std::uint64_t> other_seed) {
  bucket_stager stager(seed, tensors, bytes_max, other_seed);
  if (auto failure = stager.stage(buckets, 0)) return failure;
  return stager.finish(states);
}

}  // namespace lockstep
