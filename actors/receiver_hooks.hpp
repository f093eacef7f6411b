// Decides where an inference engine is told of a change of its weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "messages/from_receiver.hpp"
#include "messages/ids.hpp"

namespace lockstep {

/// The engine's part in an update; each may be empty. They are called on a thread of the runtime,
/// one at a time, in the order pause, apply, resume; `readiness` at any time between them. None may
/// call back into the receiver. A hook fails by throwing.
struct receiver_hooks {
  /// Stop at a step boundary: when this returns, nobody reads the weights until `resume`. If it
  /// throws, not a byte is written and the receiver fails this update.
  std::function<void()> pause;

  /// The bytes in memory are now those of `version` (`label`: the trainer's number), not yet
  /// proven; `tensors` are the indices, in canonical order, of those written. For what an engine
  /// derives from them: copies on a device, fused or quantised forms, caches to flush. If it
  /// throws, the update has failed and the receiver is torn. Not called where a receiver attaches
  /// by proving that it holds the version already.
  std::function<void(version_ref version, std::uint64_t label,
                     std::span<const std::size_t> tensors)>
      apply;

  /// The weights are proven to be `version`: go on. What it throws is logged, since the bytes are
  /// right; it must not leave the engine stopped.
  std::function<void(version_ref version, std::uint64_t label)> resume;

  /// Whether the engine may take requests has changed. Take no traffic unless `state.ready`.
  std::function<void(const readiness& state)> readiness_changed;
};

}  // namespace lockstep
