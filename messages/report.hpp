// Decides what a sync tells its caller: one terminal status for every participant, nothing hidden.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "messages/errors.hpp"
#include "messages/from_receiver.hpp"
#include "messages/ids.hpp"

namespace lockstep {

enum class sync_result : std::uint8_t {
  ok,         ///< every participant acknowledged and proved the target
  recovered,  ///< one or more failed and are members again, at the target, within the deadline
  degraded,   ///< committed, but some are still out; each is named with its reason
  aborted,    ///< nobody wrote anything; the snapshot is where it was
};

std::string_view to_string(sync_result result) noexcept;

/// The one terminal status of a participant (invariant I4).
enum class terminal : std::uint8_t {
  ok,       ///< applied the target and proved it
  no,       ///< refused before writing anything
  nack,     ///< failed while or after writing, or its proof was false
  timeout,  ///< not heard of by the deadline: a failure, never a success
  dead,     ///< its actor or process ended, or a new incarnation took its place
  aborted,  ///< wrote nothing and was not at fault: the sync was called off
};

std::string_view to_string(terminal status) noexcept;

/// One participant of one sync.
struct participant_report {
  receiver_id id = 0;
  std::string name;
  terminal status = terminal::timeout;  ///< of the sync itself, before any recovery
  errc reason = errc::none;             ///< why `status` is not ok
  std::string detail;                   ///< one line for people
  bool member = false;                  ///< in the view at the end, holding exactly `version`
  version_ref version;                  ///< last version it proved; none if it has to be reseeded
  std::uint32_t redos = 0;              ///< times that the decided delta had to be sent again
  std::uint32_t reseeds = 0;            ///< full transfers it needed to be a member again
  std::uint32_t catch_ups = 0;          ///< merged deltas that did instead
};

/// One sync, from the tensors' being read to the report. Bytes are counted once per encoding
/// (`wire_bytes`) and once per receiver (`sent_bytes`, `reseed_bytes`, `catch_up_bytes`).
struct sync_report {
  using seconds = std::chrono::duration<double>;

  std::uint64_t label = 0;  ///< the trainer's number, as given to sync()
  version_ref base;
  version_ref target;  ///< equals `base` where nothing was committed
  sync_result result = sync_result::aborted;
  errc reason = errc::none;  ///< why it was aborted, or the first reason why it was not ok
  std::string detail;

  std::uint64_t full_bytes = 0;      ///< size of all weights
  std::uint64_t wire_bytes = 0;      ///< size of the encoded delta
  std::uint64_t sent_bytes = 0;      ///< delta bytes handed to receivers, all together
  std::uint64_t reseed_bytes = 0;    ///< full-transfer bytes handed to receivers, all together
  std::uint64_t catch_up_bytes = 0;  ///< merged-delta bytes handed to receivers, all together
  std::uint64_t elements = 0;        ///< units of all tensors
  std::uint64_t changed = 0;         ///< units that differ between base and target

  seconds encode{0};   ///< diff, encode, and the snapshot's own check of the encoding
  seconds ship{0};     ///< first bucket handed over to last bucket taken
  seconds vote{0};     ///< from the end of shipping to the last vote
  seconds commit{0};   ///< from the decision to the last acknowledgement, redo included
  seconds recover{0};  ///< from the commit to the last failed receiver's being a member again
  seconds total{0};

  std::vector<participant_report> participants;  ///< ascending by id

  /// Every participant holds the target and the snapshot stands there.
  bool complete() const noexcept {
    return result == sync_result::ok || result == sync_result::recovered;
  }
};

/// Longest text of a status or an audit that travels, in bytes; longer ones are cut.
inline constexpr std::size_t observer_text_max = 512;

/// One receiver as the supervisor knows it.
struct receiver_status {
  receiver_id id = 0;
  std::string name;
  readiness state;       ///< as last heard
  bool member = false;   ///< in the view: takes part in the next sync
  std::string standing;  ///< "member", "attaching", "quarantined", "gave_up", "dead", "detached"
  errc reason = errc::none;  ///< why it is not a member
  std::string detail;
  std::uint32_t reseeds = 0;     ///< full transfers it has taken, seeding included
  std::uint32_t catch_ups = 0;   ///< merged deltas it has taken where it held an older version
  std::uint32_t restarts = 0;    ///< incarnations after the first
  std::uint64_t phase_ms = 0;    ///< for how long phase and standing have been what they are
  std::uint64_t heard_ms = 0;    ///< since it was last heard of
  std::uint64_t sent_bytes = 0;  ///< bulk bytes handed to it, by all ranks
  std::uint32_t tensors = 0;     ///< that it takes; 0 while it is not known of which model
  std::uint64_t part_bytes = 0;  ///< of these

  friend bool operator==(const receiver_status&, const receiver_status&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.id, x.name, x.state, x.member, x.standing, x.reason, x.detail, x.reseeds,
                    x.catch_ups, x.restarts, x.phase_ms, x.heard_ms, x.sent_bytes, x.tensors,
                    x.part_bytes);
  }
};

/// From whom a receiver has one stripe of every delta, if not from the trainer.
struct receiver_feed {
  receiver_id id = 0;
  std::uint32_t stripe = 0;
  std::uint32_t stripes = 0;
  receiver_id parent = 0;
  bool up = false;  ///< the two are linked; until then the trainer sends it

  friend bool operator==(const receiver_feed&, const receiver_feed&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.id, x.stripe, x.stripes, x.parent, x.up);
  }
};

/// What a receiver has taken of other receivers.
struct receiver_relayed {
  receiver_id id = 0;
  std::uint64_t bytes = 0;  ///< of all its lives

  friend bool operator==(const receiver_relayed&, const receiver_relayed&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.id, x.bytes); }
};

/// What a receiver failed for last, whatever became of it since.
struct receiver_failure {
  receiver_id id = 0;
  errc reason = errc::none;
  std::string detail;
  std::uint64_t ago_ms = 0;

  friend bool operator==(const receiver_failure&, const receiver_failure&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.id, x.reason, x.detail, x.ago_ms); }
};

/// Who passes what on to whom.
struct relay_report {
  std::vector<receiver_feed> feeds;       ///< ascending by receiver, then by stripe
  std::vector<receiver_relayed> relayed;  ///< ascending by receiver, of those who ever took any
};

/// What an audit found of one receiver.
struct receiver_audit {
  receiver_id id = 0;
  std::string name;
  version_ref version;  ///< that its bytes were compared at
  bool pass = false;
  std::string why_not;  ///< names the first tensor that differs, or says why nothing was compared

  friend bool operator==(const receiver_audit&, const receiver_audit&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.id, x.name, x.version, x.pass, x.why_not);
  }
};

}  // namespace lockstep
