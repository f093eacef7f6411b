// Decides what a report has to say of each participant: what the join has heard of it in time, and
// nothing that was not said in that transaction.
#pragma once

#include <caf/fwd.hpp>
#include <compare>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>

#include "messages/report.hpp"
#include "protocol/join_fsm.hpp"

namespace lockstep::sim {

/// Votes and acknowledgements, noted where receivers say them and where a join handles them. No two
/// trainers have a run, and so a transaction, in common.
class answers {
 public:
  /// A receiver says it. `right`: it holds what it says that it holds; none: nobody can know.
  void on_said(const reply_msg& m, std::optional<bool> right);

  // What a join handles.
  void on_opened(caf::actor_id join, const round_spec& round);
  void on_hurried(caf::actor_id join, const round_hurry& h);
  void on_heard(caf::actor_id join, const reply_msg& m, time_point now);
  void on_down(caf::actor_id join, const participant& who, time_point now);
  /// Whether a join has said this of its round before the round's deadline, and not of all that
  /// they answered.
  bool ended_early(const round_result& m, time_point now) const;
  /// It hears nothing more.
  void on_ended(caf::actor_id join) { open_.erase(join); }

  /// Whether a report of `txn` says of this life what was heard of it: each refusal once, each
  /// failed write as one redo or as its status, and no failure of another round.
  bool agrees(const participant_report& p, txn_ref txn, const incarnation& life,
              bool committed) const;
  /// Whether this receiver said itself, in `txn`, what it is said to have failed for.
  bool has_said(const participant_report& p, txn_ref txn) const;
  /// What was heard, for people.
  std::string heard_text(txn_ref txn, const participant& who) const;
  /// The transaction has been reported.
  void forget(txn_ref txn);

  /// How many joins have a round.
  std::size_t joins() const noexcept { return open_.size(); }

 private:
  struct said {
    incarnation life;
    std::uint32_t round = 0;
    reply_kind kind = reply_kind::ack;
    errc reason = errc::none;
    std::optional<bool> right;

    friend auto operator<=>(const said&, const said&) = default;
  };
  /// The first that a join had of one participant in one round.
  struct heard {
    std::optional<reply_kind> kind;  ///< none: that it has ended
    errc reason = errc::none;
    bool late = false;  ///< the deadline had passed: it may not count
  };
  using place = std::tuple<txn_ref, participant, std::uint32_t>;

  void note(caf::actor_id join, const participant& who, heard what, time_point now);
  const heard* find(txn_ref txn, const participant& who, std::uint32_t round) const;
  /// Whether an acknowledgement of that round was right; none: nobody can know.
  std::optional<bool> is_right(txn_ref txn, const participant& who, std::uint32_t round) const;
  bool fits(const participant_report& p, txn_ref txn, const participant& who,
            std::uint32_t round) const;

  std::map<std::pair<txn_ref, receiver_id>, std::set<said>> said_;
  std::map<caf::actor_id, round_spec> open_;  ///< by the join: its last
  std::map<place, heard> heard_;
};

}  // namespace lockstep::sim
