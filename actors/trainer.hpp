// Decides what a training loop sees of Lockstep: declare the layout, seed, sync, read the report.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "actors/refused_error.hpp"
#include "actors/runtime.hpp"
#include "actors/ticket.hpp"
#include "messages/layout.hpp"
#include "messages/report.hpp"
#include "weights/shard.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep {

/// The trainer's side of one fleet. One per runtime. Not thread-safe, but for `stop`, `receivers`
/// and `wait_for_members`.
class trainer {
 public:
  /// `shape`: the tensors of the model, the same at every receiver. `on` must outlive this.
  /// Throws `error{bad_input}` if `on` has a trainer already.
  trainer(runtime& on, layout shape);
  /// One rank of a trainer with several (`transport.rank` of `transport.ranks`): `owned` are its
  /// tensors, by default an even part. Every rank makes one and calls `seed` and `sync` with the
  /// same labels; each call returns when all ranks have made it. One version commits for all or for
  /// none. Reports in full are rank 0's. If a rank is lost the run is over: `sync` says `shut_down`
  /// or `unreachable`, and every rank seeds again. Throws as above, and `error{wrong_layout}` for a
  /// mask of another length.
  trainer(runtime& on, layout shape, shard_mask owned);
  /// Ends the run: receivers stop being ready when their lease has run out.
  ~trainer();
  trainer(const trainer&) = delete;
  trainer& operator=(const trainer&) = delete;

  const layout& shape() const noexcept { return shape_; }

  /// Freezes a copy of the weights as the first version of a new run, and admits receivers from it:
  /// who proves by digest that it holds them is a member without a transfer, all others are sent
  /// everything. `label` is the trainer's number of this state (its step). Calling it again starts
  /// another run. `tensors` is called on the caller's thread. Throws `error{wrong_layout}` naming a
  /// tensor whose size is not the layout's, `error{no_memory}` if there is none for the copy, and
  /// `error{unwritable}`, `error{bad_input}` or `error{timeout}` if `trainer.run_file` gives no
  /// number. Of several ranks each waits for the others for `patience`, by default
  /// `sync.recovery_timeout_ms`: then rank 0 throws `error{timeout}` that names those missing, the
  /// others one that says that rank 0 has not seeded. A rank that rank 0 has no use for, such as
  /// one of another model, throws `refused_error`, and rank 0 goes on waiting for one that fits.
  version_ref seed(const tensor_reader& tensors, std::uint64_t label = 0,
                   std::optional<std::chrono::milliseconds> patience = {});

  /// Brings every member to `tensors`: returns as soon as they have been read and may be changed
  /// again. Waits for the sync before it, if that is still under way, but not for who failed in it:
  /// its report is `degraded` then. The weights must have been seeded. `tensors` is called on a
  /// thread of the runtime; what it throws aborts the sync. What happens to receivers is in the
  /// report, never an exception; throws `error{timeout}` only if the runtime does not answer at
  /// all, which is a bug.
  ticket sync(std::uint64_t label, const tensor_reader& tensors);

  template <tensor_source T>
  version_ref seed(const T& source, std::uint64_t label = 0,
                   std::optional<std::chrono::milliseconds> patience = {}) {
    return seed(reader_of(source), label, patience);
  }
  template <tensor_source T>
  ticket sync(std::uint64_t label, const T& source) {
    return sync(label, reader_of(source));
  }

  /// Whether there is a run that `sync` would belong to: seeded, and not over because a rank or an
  /// actor was lost or a newer run took its place.
  bool is_running() const { return ended_by() == errc::none; }
  /// Why there is none: `none` while there is one. `fenced`: a newer run of the trainer leads the
  /// fleet, and a seed would take it back. Of a rank that does not lead, `unreachable`: rank 0 went
  /// without a word; `detached`: its trainer has left, and no run follows. `shut_down`: all else.
  errc ended_by() const;

  /// Ends the run, as the destructor does, and with it whatever waits in `seed` or `sync` on
  /// another thread. Thread-safe.
  void stop();

  /// Every receiver that ever announced itself here, and every one that only another rank is linked
  /// to, which has no name; ascending by id.
  std::vector<receiver_status> receivers() const;

  /// Who has what of whom, where receivers pass deltas on to receivers (`transport.fanout`).
  relay_report relays() const;

  /// Compares what every receiver holds now with what the fleet is said to hold, tensor by tensor:
  /// reads all weights at each and at the snapshot. Receivers that left on purpose are left out.
  /// Ascending by id; empty while there is nothing to compare with. May be called during a sync.
  std::vector<receiver_audit> audit() const;

  /// Waits until `count` receivers are members; false if `timeout` passes first, or if there is no
  /// run that they could be members of (`is_running`).
  bool wait_for_members(std::size_t count, std::chrono::milliseconds timeout) const;

 private:
  void conclude_last();

  runtime& on_;
  layout shape_;
  shard_mask owned_;
  layout part_;  ///< of the model: what this rank owns
  std::optional<ticket> last_;
};

}  // namespace lockstep
