// Decides how a receiver's actions touch bytes: the engine's memory, the staged buckets, the hooks.
// No CAF, no protocol: it does what it is told and says what came of it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "actors/faults.hpp"
#include "actors/receiver_hooks.hpp"
#include "messages/from_receiver.hpp"
#include "messages/layout.hpp"
#include "weights/device_weights.hpp"
#include "weights/shard.hpp"
#include "weights/weight_buffer.hpp"
#include "weights/weight_memory.hpp"

namespace lockstep {

/// The bytes of one inference engine, which outlive the actors that work on them.
///
/// One receiver actor at a time calls the members under "bytes"; the state may be read by anybody.
class engine {
 public:
  /// What `receiver_options` says, see actors/receiver.hpp. `memory` empty and no `device`: own
  /// memory, zeroed. Throws `error{wrong_layout}` if a span has not the size that the layout says,
  /// and what `device_memory` throws. `taken`: which tensors it is for, some of those with bytes;
  /// empty: all. Those that are not have no bytes here, nor in `memory`, nor on the device.
  engine(receiver_id id, std::string name, layout shape, std::vector<std::span<std::byte>> memory,
         receiver_hooks hooks, std::shared_ptr<fault_source> faults, shard_mask taken = {},
         device_weights device = {});
  /// Likewise, with `memory` of the tensors of `shard_layout(shape, taken)`, wherever it is.
  engine(receiver_id id, std::string name, const layout& shape,
         std::unique_ptr<weight_memory> memory, receiver_hooks hooks,
         std::shared_ptr<fault_source> faults, shard_mask taken = {});

  receiver_id id() const noexcept { return id_; }
  const std::string& name() const noexcept { return name_; }
  /// Where tensors that are not taken are emptied.
  const layout& shape() const noexcept { return shape_; }
  /// Of the whole model.
  const hash128& model() const noexcept { return model_; }
  /// Empty: all tensors.
  const shard_mask& taken() const noexcept { return taken_; }
  /// Throws `error{bad_input}` if it lies in a device's memory.
  std::span<const std::byte> tensor(std::size_t index) const;
  /// A copy of a tensor, wherever it lies. On any thread. Throws `error{no_memory}`, and
  /// `error{bad_input}` with what a device says.
  std::vector<std::byte> read(std::size_t index) const;

  // --- bytes. A failure is returned, never thrown, whatever a hook does.
  struct failure {
    errc reason = errc::none;
    std::string detail;
    explicit operator bool() const noexcept { return reason != errc::none; }
  };

  /// Stops the engine; nothing if it is stopped. Whatever writes calls this first.
  failure pause();
  /// Lets it go on; nothing if it is not stopped.
  void resume(const target_info& target, std::string& complaint);
  /// Stopped for an update that has not been proven: whatever the bytes are by now, the engine may
  /// not have taken them up.
  bool stopped() const noexcept { return stopped_; }

  /// Keeps a bucket as it is. Whether all are kept and sound is `check`'s to say.
  void keep(std::uint32_t index, payload bucket);
  /// Keeps a bucket of a delta over the bytes held, staged: from here on it leads to the target
  /// from a torn mix as well. What is staged takes at most `bytes_max`. Says what is wrong with the
  /// first bucket that is not sound; after that none is kept, and `verify` says it again.
  failure stage(std::uint32_t index, payload bucket, std::uint64_t bytes_max);
  void drop();
  /// Of all buckets that are kept.
  std::uint64_t staged_bytes() const noexcept;
  /// The bytes held digest to `base`, and what was staged since the last `drop` is sound and leads
  /// to `target`. Once.
  failure verify(const digest& base, const digest& target);
  /// The buckets that are kept are sound.
  failure check();
  /// Writes the staged buckets. `share`: fail after this part of all frames.
  failure apply(const target_info& target, std::optional<double> share = std::nullopt);
  /// Writes one bucket of all weights. `share`: fail after this part of its frames.
  failure write_full(const payload& bucket, std::optional<double> share = std::nullopt);
  failure finish_full(const target_info& target);
  /// Bucket `index` of all weights as they are now, as whoever cuts them into `count` buckets of at
  /// most `bucket_bytes_max` bytes makes it; empty where these are not so many, and if there is no
  /// memory.
  payload cut(std::uint64_t bucket_bytes_max, std::uint32_t count, std::uint32_t index);
  /// Of all weights as they are now: under the public key, and under the challenge's.
  std::pair<digest, digest> digests_now(std::uint64_t challenge);
  /// Of each tensor by itself.
  std::vector<digest> digests_under(std::uint64_t seed);

  bool strikes(fault_kind kind, const transfer_ref& what) const;
  /// How much a write that was struck has written.
  std::optional<double> share_written() const {
    return faults_ ? std::optional(faults_->share_written()) : std::nullopt;
  }

  // --- state, thread-safe.
  /// What the engine's hook throws comes back as a failure; the state is published all the same.
  failure publish(const readiness& state);
  /// From `when` on the trainer has been silent for too long, also while nobody has come to publish
  /// that: this process may have been stopped, or its threads not have had their turn.
  void trust_until(std::chrono::steady_clock::time_point when);
  /// As it was published last.
  readiness state() const;
  /// As it is at `now`.
  readiness state_at(std::chrono::steady_clock::time_point now) const;
  /// A trainer has no use for this engine. Stands until it is ready.
  void refuse(failure why);
  failure refusal() const;
  /// Waits until `ready`, by this machine's clock too, at a label of at least `label`; false if
  /// `timeout` passes first.
  bool wait_ready(std::uint64_t label, std::chrono::milliseconds timeout) const;

 private:
  failure tell_engine(const target_info& target, const std::vector<std::size_t>& touched);
  readiness state_locked(std::chrono::steady_clock::time_point now) const;

  receiver_id id_;
  std::string name_;
  hash128 model_;
  shard_mask taken_;
  layout shape_;
  weight_buffer own_;
  std::unique_ptr<weight_memory> memory_;
  receiver_hooks hooks_;
  std::shared_ptr<fault_source> faults_;
  failure unsound_;  ///< of the first bucket that could not be kept or staged
  bool stopped_ = false;

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  readiness state_;
  std::chrono::steady_clock::time_point trusted_until_ =
      std::chrono::steady_clock::time_point::max();
  failure refusal_;
};

}  // namespace lockstep
