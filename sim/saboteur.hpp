// Decides how a protocol is broken on purpose, from outside: no line of the real one knows of it.
#pragma once

#include <map>
#include <optional>
#include <set>

#include "sim/fleet.hpp"

namespace lockstep::sim {

/// Stands between the actors and changes what they see, as one `variant` says.
class saboteur final : public translator {
 public:
  saboteur(const run_options& o, fleet& of) : how_(o.broken), digests_(o.digests), fleet_(of) {}

  // As an actor's step begins and ends.
  void before(caf::scheduled_actor& actor, caf::mailbox_element* message);
  void after(caf::scheduled_actor& actor);

  bool on_send(wire_message& m, endpoint from, endpoint to) override;
  bool on_arrival(wire_message& m, endpoint from, endpoint to) override;

  /// What a trainer's version is called at receivers.
  version_ref on_wire(version_ref v) const;
  /// The run that a receiver's version is really of.
  version_ref true_tag(const receiver_process& r, version_ref v) const;
  void on_report(const trainer_process& t, const sync_report& report);
  /// Senders are told of answers that no join has heard.
  bool makes_up_reports() const { return how_ == variant::only_not_advance; }

 private:
  /// A receiver as it was before it was attached.
  struct earlier {
    receiver_fsm machine;
    std::map<std::uint32_t, payload> staged;
  };
  /// What one receiver was sent.
  struct memory {
    std::map<std::uint64_t, std::uint64_t> run_of;  ///< by transaction's number
    std::uint64_t tag_run = 0;
    txn_ref staging;
    std::map<std::uint32_t, payload> buckets;  ///< of `staging`
    std::optional<earlier> before_attach;
  };
  /// What the numbers of one trainer's run are on the wire.
  struct numbers {
    std::map<std::uint64_t, std::uint64_t> wire;
    std::map<std::uint64_t, std::uint64_t> back;
    std::uint64_t last = 0;
    bool last_aborted = false;
  };

  void forge_answers(caf::scheduled_actor& join, const round_spec& spec);
  void forget_decision(sender_state& sender, round_result& result);
  void hand_over_votes(caf::scheduled_actor& actor);
  void remember_staged(receiver_process& r, const bucket_msg& m);
  void on_attach(receiver_process& r, receiver_state& s);
  void on_commit(receiver_process& r, receiver_state& s, const commit_msg& m);
  void name_attempt(txn_ref txn);
  void rename(wire_message& m) const;
  void hide_digests(caf::scheduled_actor& actor, caf::mailbox_element* message) const;

  variant how_;
  bool digests_;
  fleet& fleet_;
  std::map<endpoint, memory> receivers_;
  std::map<std::uint64_t, numbers> runs_;
  std::map<endpoint, sync_fsm> undecided_;  ///< by run: with all votes in, before they count
  std::map<endpoint, round_result> votes_;  ///< likewise, while the snapshot still stages
};

}  // namespace lockstep::sim
