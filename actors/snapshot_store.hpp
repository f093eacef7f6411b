// Decides who may read and who may write the trainer's snapshot, and how buckets are taken from it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>

#include "messages/ids.hpp"
#include "weights/bucket_codec.hpp"
#include "weights/change_history.hpp"
#include "weights/shard.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep {

/// The bytes that every member of the fleet holds. Any number of readers; the snapshot actor that
/// took over last alone writes, when it advances.
class snapshot_store {
 public:
  /// Copies `source`, which the trainer calls `label`. `history_percent`: share of the weights'
  /// bytes that may be spent on remembering where they changed.
  snapshot_store(layout shape, const tensor_reader& source, std::uint64_t label,
                 std::uint32_t history_percent = 0);

  const layout& shape() const noexcept { return bytes_.shape(); }

  /// How the bytes came to be what they are. Touched only by what is called back by `read` and, to
  /// write it, by `write`.
  const change_history& history() const noexcept { return history_; }
  change_history& history() noexcept { return history_; }

  /// Calls `work(views)` while nobody writes.
  template <class Work>
  auto read(Work work) const {
    const std::shared_lock lock(mutex_);
    return work(views());
  }

  /// From now on nobody else writes: whoever did has finished, or will be refused. Returns what the
  /// new owner shows.
  std::uint64_t take_over() {
    const std::unique_lock lock(mutex_);
    return ++owner_;
  }

  /// Calls `work(spans)` while nobody reads; what it writes is called `label`. Until it returns,
  /// and for ever if it throws, the bytes are `torn`. Throws `error{fenced}`, having called
  /// nothing, if another than `owner` has taken over.
  template <class Work>
  void write(std::uint64_t owner, std::uint64_t label, Work work) {
    const std::unique_lock lock(mutex_);
    if (owner != owner_) throw error(errc::fenced, "another run has taken over the snapshot");
    ++generation_;
    torn_ = true;
    work(spans_);
    label_ = label;
    torn_ = false;
  }

  /// Calls `work(views)` while nobody writes, unless the bytes have changed since `generation`.
  template <class Work>
  bool read_if(std::uint64_t generation, Work work) const {
    const std::shared_lock lock(mutex_);
    if (generation != generation_) return false;
    work(views());
    return true;
  }

  std::uint64_t generation() const {
    const std::shared_lock lock(mutex_);
    return generation_;
  }
  /// The trainer's number of the bytes. Kept with them: whoever takes over from an actor that died
  /// knows both or neither.
  std::uint64_t label() const {
    const std::shared_lock lock(mutex_);
    return label_;
  }
  bool torn() const {
    const std::shared_lock lock(mutex_);
    return torn_;
  }

 private:
  tensor_views views() const { return as_views(spans_); }

  mutable std::shared_mutex mutex_;
  weight_buffer bytes_;
  tensor_spans spans_;
  change_history history_;
  std::uint64_t generation_ = 0;
  std::uint64_t label_ = 0;
  std::uint64_t owner_ = 0;
  bool torn_ = false;
};

/// Buckets of one transaction, made once and shared by all flushers. Thread-safe.
class bucket_source {
 public:
  virtual ~bucket_source() = default;
  virtual const manifest& content() const = 0;
  /// So many flushers more are about to ask for the buckets.
  virtual void expect(std::size_t /*flushers*/) {}
  /// Bucket `index`; empty if its bytes are gone, which ends the stream.
  virtual payload bucket(std::uint32_t index) = 0;
  /// Bytes of weights that are read while it is staged; 0 for what is written where it arrives.
  virtual std::uint64_t staged_over() const = 0;
};

/// A delta: all buckets are there.
class delta_source final : public bucket_source {
 public:
  /// `weights_bytes`: of the weights that it is for.
  delta_source(encoded_delta delta, std::uint64_t weights_bytes)
      : delta_(std::move(delta)), weights_bytes_(weights_bytes) {}
  const manifest& content() const override { return delta_.content; }
  payload bucket(std::uint32_t index) override { return delta_.buckets[index]; }
  std::uint64_t staged_over() const override { return weights_bytes_; }
  const std::vector<payload>& buckets() const { return delta_.buckets; }

 private:
  encoded_delta delta_;
  std::uint64_t weights_bytes_;
};

/// A delta that is still being encoded, by those who ship what there is of it.
class growing_source final : public bucket_source {
 public:
  /// `weights_bytes`: of the weights that it is for.
  explicit growing_source(std::uint64_t weights_bytes) : weights_bytes_(weights_bytes) {}
  /// How many there are now.
  std::uint32_t add(const payload& bucket);
  /// Nobody knows it yet.
  const manifest& content() const override { return content_; }
  payload bucket(std::uint32_t index) override;
  std::uint64_t staged_over() const override { return weights_bytes_; }

 private:
  const manifest content_;
  std::uint64_t weights_bytes_;
  std::mutex mutex_;  // of what follows
  std::vector<payload> buckets_;
};

/// All weights: each bucket is made from the snapshot when the first flusher asks for it, and kept
/// for those close behind: where a slow receiver is alone, what is held for it is what is under way
/// to it.
class full_source final : public bucket_source {
 public:
  /// `kept_max`: buckets kept, at least 1. `taken`: which tensors; empty: all. Throws
  /// std::bad_alloc.
  full_source(std::shared_ptr<const snapshot_store> store, const bucket_form& form,
              std::size_t kept_max, shard_mask taken = {});
  const manifest& content() const override { return plan_.content(); }
  void expect(std::size_t flushers) override;
  payload bucket(std::uint32_t index) override;
  std::uint64_t staged_over() const override { return 0; }

 private:
  std::shared_ptr<const snapshot_store> store_;
  shard_mask taken_;
  std::uint64_t generation_;
  full_plan plan_;
  std::size_t kept_max_;
  struct kept {
    payload bytes;
    std::size_t awaited;  ///< flushers that have not asked for it
  };
  std::mutex mutex_;  // of what follows
  std::size_t flushers_ = 0;
  std::map<std::uint32_t, kept> kept_;
};

}  // namespace lockstep
