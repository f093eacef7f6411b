// What time does to receivers: their leases end, and what is staged is given up.
#include <algorithm>

#include "protocol/deadlines.hpp"
#include "sim/checker.hpp"
#include "sim/mailbox.hpp"

namespace lockstep::sim {

using std::chrono::milliseconds;

/// A receiver handles something. Its lease is renewed by an attach that is newer than all before,
/// and by pings of the run that it obeys, or of one after that; but a run keeps no tag of the run
/// before it from falling silent, only who attaches to it.
void checker::hear_lease(receiver_process& r, const caf::mailbox_element& message) {
  if (const auto* m = content_of<attach_msg>(message)) {
    if (m->env.inc != r.inc || m->env.txn <= r.attached) return;
    r.attached = m->env.txn;
    r.heard = fleet_.now();
    return;
  }
  const auto* ping = content_of<ping_msg>(message);
  if (!ping || ping->inc != r.inc || ping->current.run < r.attached.run) return;
  const auto* s = fleet_.state_of_receiver(r);
  const bool over = s && s->machine->state().phase == receiver_phase::serving &&
                    s->machine->state().version.run < ping->current.run &&
                    !s->machine->summarize().attaching;
  if (!over) r.heard = fleet_.now();
}

/// All that was due has been handled, whether or not anybody was told that it is: the clock is
/// about to move on.
void checker::before_time_passes() {
  for (const auto& r : fleet_.receivers()) {
    if (!r.up || r.standing_still) continue;
    if (r.served.ready) check_lease(r);
    if (r.kept) check_kept(r);
  }
}

/// Its engine is ready.
void checker::check_lease(const receiver_process& r) {
  const auto& options = fleet_.options().receiver;
  if (fleet_.now() < r.heard + milliseconds(options.lease_ms)) return;
  const auto who = "the engine of receiver-" + std::to_string(r.id);
  if (!options.serve_stale)
    violated("I3: " + who + " is ready, and its lease has ended");
  else if (r.served.reason != errc::lease_expired)
    violated("I3: " + who + " may be stale, and does not say so");
}

/// A receiver has handled something.
void checker::note_kept(receiver_process& r, const receiver_state& s) {
  const auto slot = s.machine->summarize().slot;
  // An engine that is writing takes the time it takes; one that lies says nothing more of it.
  if (!slot || s.machine->state().phase == receiver_phase::applying) return r.kept.reset();
  if (r.kept && r.kept->txn == slot->txn && r.kept->kind == slot->kind) return;
  r.kept = kept_slot{slot->txn, slot->kind, fleet_.now()};
}

void checker::check_kept(const receiver_process& r) {
  using kind = receiver_fsm::slot_kind;
  const auto& options = fleet_.options();
  // No shipment has more bytes.
  const std::uint64_t most_bytes =
      std::max<std::uint64_t>(options.receiver.staged_bytes_max, r.memory.shape().total_bytes());
  const bool decided = r.kept->kind == kind::full || r.kept->kind == kind::catch_up;
  const auto most = decided
                        ? 2 * (full_timeout(options, most_bytes) + scan_time(options, most_bytes))
                        : undecided_timeout(options, most_bytes, most_bytes);
  if (fleet_.now() >= r.kept->since + most)
    violated("bounds: receiver-" + std::to_string(r.id) + " waits for the rest of " +
             to_string(r.kept->txn) + ", or for its end, for longer than it may");
}

}  // namespace lockstep::sim
