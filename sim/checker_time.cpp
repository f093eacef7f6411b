// What time does to receivers: who keeps their leases.
#include <algorithm>

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

/// Its engine is ready, and has done what the time was for.
void checker::check_lease(const receiver_process& r) {
  const auto& options = fleet_.options().receiver;
  if (fleet_.now() < r.heard + milliseconds(options.lease_ms)) return;
  const auto who = "the engine of receiver-" + std::to_string(r.id);
  if (!options.serve_stale)
    violated("I3: " + who + " is ready, and its lease has ended");
  else if (r.served.reason != errc::lease_expired)
    violated("I3: " + who + " may be stale, and does not say so");
}

}  // namespace lockstep::sim
