// Decides what an inference engine sees of Lockstep: its memory, its hooks, and whether it may
// serve.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "actors/faults.hpp"
#include "actors/receiver_hooks.hpp"
#include "actors/refused_error.hpp"
#include "actors/runtime.hpp"
#include "messages/from_receiver.hpp"
#include "messages/layout.hpp"
#include "weights/device_weights.hpp"

namespace lockstep {

class engine;

struct receiver_options {
  receiver_id id = 0;  ///< one of its own in the fleet; stays the same over restarts
  std::string name;    ///< for reports; empty: "receiver-<id>"
  /// The engine's own memory, one span for each tensor in the layout's canonical order, an empty
  /// one for each that is not taken. It must outlive the receiver and be written by nobody else.
  /// Empty: the receiver allocates, zeroed.
  std::vector<std::span<std::byte>> memory;
  receiver_hooks hooks;
  std::shared_ptr<fault_source> faults;  ///< failures to provoke on purpose; usually none
  /// The tensors that this engine takes, by name, where it is one of several that hold a model
  /// together: it is sent, proves and is audited for these, and no byte of others. Empty: all.
  std::vector<std::string> tensors{};
  /// In place of `memory`: the engine's own memory on a device, where buckets are staged, proven
  /// and written then, and nothing else of the weights crosses. No `device`: on the host.
  device_weights device{};
};

/// One inference engine's side. Attaches by itself as soon as a trainer is there, at any time;
/// whatever fails is retried by the supervisor. Thread-safe.
class receiver {
 public:
  /// `shape`: of the whole model. Throws `error{wrong_layout}` if the memory does not fit it, or a
  /// tensor that is to be taken is not there, stands twice, or none of them has any bytes;
  /// `error{no_memory}` if there is none, `error{bad_input}` if the id is taken, or a device says
  /// no or the memory is not its own. `on` must outlive this.
  receiver(runtime& on, layout shape, receiver_options options);
  /// Detaches, and waits for that however long it takes: the memory is the caller's to free after
  /// this.
  ~receiver();
  receiver(const receiver&) = delete;
  receiver& operator=(const receiver&) = delete;

  receiver_id id() const noexcept;
  const std::string& name() const noexcept;
  /// That of the model, where tensors that are not taken have no bytes.
  const layout& shape() const noexcept;

  /// Whether the engine may serve now, with which version, and if not why not. Sees the end of the
  /// lease by the steady clock, also before the hook `readiness_changed` is told.
  readiness state() const;
  /// Throws `refused_error` if a trainer has said that it has no use for this receiver as it is:
  /// its tensors are others, or its id is another's. It goes on trying all the same, for trainers
  /// change.
  void check_refused() const;
  /// Waits until it may serve a version whose label is at least `label`.
  bool wait_ready(std::uint64_t label, std::chrono::milliseconds timeout) const;

  /// Bytes of tensor `index` in canonical order. Read them only between the hooks `resume` and
  /// `pause`, or while no sync and no attach can be under way. Throws `error{bad_input}` if they
  /// lie in a device's memory.
  std::span<const std::byte> tensor(std::size_t index) const;
  /// A copy of them, wherever they lie; when, as for `tensor`. Throws `error{no_memory}`, and
  /// `error{bad_input}` if a device fails.
  std::vector<std::byte> read(std::size_t index) const;

  /// Leaves the fleet; returns when no actor touches the memory any more. Then `state` is not
  /// ready. Throws `error{timeout}` if something that is under way, such as a hook, takes very
  /// long; the memory may still be written to then, and the call may be repeated.
  void detach();

 private:
  runtime& on_;
  std::shared_ptr<engine> engine_;
  std::mutex detaching_;
  std::future<void> gone_;  ///< valid from the first call of `detach`
  bool attached_ = true;
};

}  // namespace lockstep
