// Decides whether what the trainer's side says of its rounds, and does with its snapshot, is what
// the model of the protocol allows: there both are the sender's own.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "protocol/join_fsm.hpp"
#include "protocol/snapshot_fsm.hpp"
#include "sim/relation.hpp"

namespace lockstep::sim {

/// What a join is told: a round, an answer, that a life has ended, or that time has passed.
using join_event = std::variant<round_spec, reply_msg, participant, std::monostate>;

/// What a join has been told, counted as the model counts it; held against what it says. Looks at
/// nothing in the join, and says nothing of time: a round may end at any tick.
class join_relation {
 public:
  // What it is told in a step.
  void on_open(const round_spec& spec);
  void on_reply(const reply_msg& m, coverage* seen = nullptr);
  void on_down(const participant& who);
  void on_tick() { ticked_ = true; }
  void on(const join_event& m, coverage* seen = nullptr);

  /// At the step's end: `said` of the round, if it has said anything; once for each word, and the
  /// second is one too many. Nothing, or what is wrong.
  std::optional<std::string> check(const round_result* said);
  /// Likewise: `said` of transactions, where it was asked whether all of a view have acknowledged
  /// one, if it was.
  struct verdict {
    txn_ref txn;
    bool all_ok = false;
  };
  std::optional<std::string> check_verdicts(const std::optional<sync_action::conclude>& asked,
                                            std::span<const verdict> said) const;
  /// What it said could not be seen.
  void lose_sight() { round_.reset(); }

 private:
  struct round {
    round_spec spec;
    std::vector<std::string_view> heard;  ///< the model's word for each answer; empty: none yet
    std::vector<digest> held;             ///< what those who are behind say they hold
    bool complete() const;
  };
  std::string_view whose(const reply_msg& m) const;

  std::optional<round> round_;
  bool ticked_ = false;
  txn_ref acked_txn_;
  std::vector<participant> acked_;
};

/// One message handled by a snapshot.
struct snapshot_step {
  enum what : std::uint8_t {
    stage,    ///< a delta of the transaction, from `base` to `target`
    verdict,  ///< of the join
    drop,
    other,
  };
  struct standing {
    target_info held;
    std::optional<snapshot_fsm::pending> staged;
  };
  struct answer {
    what to = other;  ///< stage or verdict
    txn_ref txn;
    bool done = false;  ///< that it has, or has not
  };
  standing before;
  standing after;
  what event = other;
  txn_ref txn;
  version_ref base;
  target_info target;
  bool all_ok = false;
  bool heard = false;  ///< answers are seen: who asked is still there
  std::vector<answer> said;
};

/// Nothing if the model's sender may do so with its snapshot; else what is wrong, for people.
std::optional<std::string> check(const snapshot_step& step);

}  // namespace lockstep::sim
