// Decides when every participant of a round has exactly one terminal status, and whether all that
// are still in the view acknowledged. A missing reply is a failure, never a success.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "messages/from_receiver.hpp"
#include "messages/report.hpp"
#include "protocol/receiver_fsm.hpp"

namespace lockstep {

/// One life of one receiver.
struct participant {
  receiver_id id = 0;
  incarnation inc;

  friend auto operator<=>(const participant&, const participant&) = default;
};

/// How a receiver came to hold what the fleet holds.
enum class admission : std::uint8_t {
  attached,   ///< it did already
  caught_up,  ///< by what has changed since what it held
  reseeded,   ///< by all weights
};

/// The question that a round asks all its participants.
enum class round_kind : std::uint8_t { attach, full, vote, commit, redo };

/// A round: who is asked what, and until when answers count.
struct round_spec {
  std::uint64_t cluster = 0;
  txn_ref txn;
  std::uint32_t number = 0;  ///< within the transaction; answers to another round do not count
  round_kind kind = round_kind::vote;
  std::vector<participant> who;
  digest proof;  ///< what a positive answer must prove; unused by votes
  time_point deadline;
  /// What it must prove instead where a participant takes a part of the tensors.
  std::map<participant, digest> part_proofs = {};
};

/// Answers to that round count until then, if that is earlier than what it was opened with.
struct round_hurry {
  txn_ref txn;
  std::uint32_t number = 0;
  time_point deadline;
};

/// One participant's one terminal status in one round.
struct outcome {
  participant who;
  terminal status = terminal::timeout;
  errc reason = errc::none;
  std::string detail;
  digest held = {};  ///< of who needs a full: what its bytes digest to, as it says

  friend bool operator==(const outcome&, const outcome&) = default;
};

struct round_result {
  txn_ref txn;
  std::uint32_t number = 0;
  round_kind kind = round_kind::vote;
  std::vector<outcome> outcomes;  ///< in the order of `round_spec::who`

  friend bool operator==(const round_result&, const round_result&) = default;
};

/// Keeps the invariant I4: one terminal status for every participant, emitted once; an "ok" whose
/// proof does not hold is a failure. Total, pure, not thread-safe.
class join_fsm {
 public:
  using emitted = std::optional<round_result>;

  /// Replaces any round before it. A round without participants is complete at once.
  emitted on_open(round_spec spec);
  /// The round's deadline is now the earlier one. Another round's is not changed.
  void on_hurry(const round_hurry& h);
  emitted on_reply(const reply_msg& m);
  /// This life of a receiver has ended.
  emitted on_down(const participant& who, errc reason);
  emitted on_tick(time_point now);

  /// True if every member of `view` has acknowledged `txn` with a valid proof; the snapshot
  /// advances on this and on nothing else. An empty view has nobody left to ask.
  bool all_ok(txn_ref txn, const std::vector<participant>& view) const;

  std::optional<time_point> deadline() const;
  /// Replies that were late, repeated or foreign: counted, not used.
  std::uint64_t ignored() const noexcept { return ignored_; }

 private:
  emitted settle(std::size_t index, terminal status, errc reason, std::string detail,
                 digest held = {});
  emitted finish();

  std::optional<round_spec> open_;
  std::vector<std::optional<outcome>> got_;
  std::size_t missing_ = 0;
  txn_ref acked_txn_;
  std::set<participant> acked_;
  std::uint64_t ignored_ = 0;
};

}  // namespace lockstep
