// What a supervisor makes of failures: its trainer's side goes on, and who failed is tried again.
#include "sim/checker.hpp"
#include "sim/mailbox.hpp"

namespace lockstep::sim {

/// A supervisor handles something. What it is told by a sender that leads no more counts as well:
/// that makes the count higher than its own, never lower.
void checker::hear_failures(const trainer_process& t, const caf::mailbox_element& message) {
  if (const auto* m = content_of<sync_action::evicted>(message)) ++failed_[{t.where, m->who.id}];
  if (const auto* m = content_of<sync_action::not_admitted>(message))
    ++failed_[{t.where, m->who.id}];
  const auto* fleet = content_of<fleet_notice>(message);
  const auto* s = fleet ? fleet_.actors_of(t).supervisor : nullptr;
  if (!s || !s->trainer || !message.sender || message.sender->id() != s->trainer->sender.id())
    return;
  for (const auto id : fleet->acknowledged) failed_.erase({t.where, id});
}

/// A supervisor has handled something.
void checker::check_supervisor(const trainer_process& t) {
  const auto* s = fleet_.actors_of(t).supervisor;
  if (!s) return;
  const auto& options = fleet_.options().supervision;
  const bool may_go_on = t.others.empty() && !s->fenced && !t.store->torn() &&
                         s->trainer_restarts <= options.restart_max;
  if (s->last_run != 0 && !s->trainer && may_go_on)
    violated("L1: the side of " + fleet_.name_of(t.where) + " has died, and stays down");
  for (const auto& [id, record] : s->policy->records()) {
    // What is heard of it afterwards has no share in that it was given up.
    const bool given_up = record.where == standing::gave_up;
    const bool was =
        given_up ? !given_up_.insert({t.where, id}).second : given_up_.erase({t.where, id}) > 0;
    if (!given_up || was || record.reason == errc::dead) continue;
    const auto failed = failed_.find({t.where, id});
    const auto times = failed == failed_.end() ? 0 : failed->second;
    // One more than it may be tried again.
    if (times <= options.attempts_max)
      violated("L1: receiver-" + std::to_string(id) + " is given up after it has failed " +
               std::to_string(times) + " times");
  }
}

}  // namespace lockstep::sim
