// Decides whether a step that an actor made is one that the model of the protocol allows.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "messages/wire.hpp"
#include "protocol/receiver_fsm.hpp"
#include "protocol/sync_fsm.hpp"

namespace lockstep::sim {

/// One message handled by a receiver, with all that its executor did at once; or one tick; or one
/// answer of an executor that takes its time.
struct receiver_step {
  receiver_fsm::summary before;
  receiver_fsm::summary after;
  std::optional<wire_message> event;  ///< none: a tick, or
  bool executor = false;              ///< an answer of the executor
  std::vector<reply_msg> replies;     ///< sent to the join meanwhile
  /// Answers may be lost on their way into `replies`: none is demanded.
  bool mute = false;
};

/// What a sender handled.
enum class sender_event : std::uint8_t {
  sync,
  encoded,  ///< or staged, or that it failed
  proof,
  full_encoded,
  advanced,  ///< or that it failed
  round,
  membership,  ///< admit, down, gave up
  newer_run,
  tick,
};

/// One message handled by a sender, or one tick.
struct sender_step {
  /// What went to a receiver, also through its flusher.
  struct word {
    enum kind : std::uint8_t { attach, full, prepare, commit, abort, redo };
    participant to;
    kind what = attach;
    txn_ref txn = {};  ///< of the message, if that was looked at
  };
  sync_fsm::summary before;
  sync_fsm::summary after;
  sender_event event = sender_event::tick;
  std::optional<round_result> result;  ///< of a round
  std::vector<word> sent;
  /// `sent` is complete: what the model sends to the living must be in it,
  bool all_sent = false;
  std::vector<participant> unreached;  ///< but not what goes to these,
  std::vector<participant> unshipped;  ///< nor what flushers say to these
};

/// The lines of tests/model/transitions.txt that were taken.
using coverage = std::set<std::string, std::less<>>;

/// Nothing if tests/model/protocol.pml has this transition (tests/model/transitions.txt), or if the
/// step changes nothing that the model sees; else what is wrong, for people. Says nothing of time.
std::optional<std::string> check(const receiver_step& step, coverage* seen = nullptr);
std::optional<std::string> check(const sender_step& step, coverage* seen = nullptr);

/// The same for the first summary of a life, and of a run.
std::optional<std::string> check_start(const receiver_fsm::summary& born);
std::optional<std::string> check_start(const sync_fsm::summary& booted);

}  // namespace lockstep::sim
