// Decides what a receiver may say to the trainer's side.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>

#include "messages/errors.hpp"
#include "messages/ids.hpp"
#include "messages/to_receiver.hpp"

namespace lockstep {

/// What a receiver holds.
enum class receiver_phase : std::uint8_t {
  empty,      ///< no version: fresh, restarted, or never attached
  serving,    ///< holds exactly the version of its tag
  applying,   ///< a decided delta is being written
  reseeding,  ///< all weights are being written
  torn,       ///< a write failed half-way: the bytes are a mix
  last_ = torn
};

/// "empty", "serving", …; "unknown" for a value that is no enumerator.
std::string_view to_string(receiver_phase phase) noexcept;

/// Longest name of a receiver that travels, in bytes.
inline constexpr std::size_t receiver_name_max = 256;

/// Longest part of a receiver that travels, in bytes: that of a model of 1,048,576 tensors.
inline constexpr std::size_t receiver_part_bytes_max = 131'072;
/// Different parts that a trainer's side serves at a time.
inline constexpr std::size_t receiver_parts_max = 256;

/// First word of every incarnation to the supervisor.
struct hello_msg {
  std::uint64_t cluster = 0;
  receiver_id id = 0;
  std::string name;  ///< at most `receiver_name_max` bytes
  incarnation inc;
  hash128 layout;  ///< of the whole model
  /// Which of its tensors this receiver takes: bit i % 8 of byte i / 8 is tensor i. Empty: all. At
  /// most `receiver_part_bytes_max` bytes.
  payload taken = {};

  friend bool operator==(const hello_msg&, const hello_msg&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.cluster, x.id, x.name, x.inc, x.layout, x.taken);
  }
};

/// Which question a reply answers and how. Each answers exactly one round of the join.
enum class reply_kind : std::uint8_t {
  attached,   ///< to attach: holds the target, proof given
  need_full,  ///< to attach: holds something else, named by its digest
  full_ok,    ///< to full: written and proven
  full_fail,  ///< to full: not written, or not proven
  vote_yes,   ///< to prepare: base and payload proven, nothing written
  vote_no,    ///< to prepare: `reason` says why; nothing written
  ack,        ///< to commit or redo: applied and proven
  nack,       ///< to commit or redo: not applied, or not proven
  last_ = nack
};

std::string_view to_string(reply_kind kind) noexcept;

/// Longest `reply_msg::detail`, in bytes.
inline constexpr std::size_t reply_detail_max = 512;

/// To the join. `proof` is the digest of all weights as they stand in memory now, under the
/// challenge of the question: it cannot be given by who does not hold the bytes. In
/// need_full(behind) it is that under the public key, by which the trainer may know the bytes.
struct reply_msg {
  envelope env;
  receiver_id id = 0;
  /// Of the question: a late answer to an earlier one is not taken for this.
  std::uint32_t round = 0;
  reply_kind kind = reply_kind::nack;
  errc reason = errc::none;
  std::string detail;  ///< one line for people; at most `reply_detail_max` bytes
  digest proof;

  friend bool operator==(const reply_msg&, const reply_msg&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.env, x.id, x.round, x.kind, x.reason, x.detail, x.proof);
  }
};

/// To the flusher: bucket `index` has been taken, another may be sent.
struct credit_msg {
  envelope env;
  receiver_id id = 0;
  std::uint32_t index = 0;

  friend bool operator==(const credit_msg&, const credit_msg&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.env, x.id, x.index); }
};

/// Whether an engine may serve, with what, and if not why not.
struct readiness {
  bool ready = false;
  receiver_phase phase = receiver_phase::empty;
  version_ref version;       ///< what the bytes are; none while empty, torn or being written
  std::uint64_t label = 0;   ///< the trainer's number of `version`
  errc reason = errc::none;  ///< why not ready

  friend bool operator==(const readiness&, const readiness&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.ready, x.phase, x.version, x.label, x.reason);
  }
};

/// Answer to a ping.
struct pong_msg {
  std::uint64_t cluster = 0;
  receiver_id id = 0;
  incarnation inc;
  readiness state;

  friend bool operator==(const pong_msg&, const pong_msg&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.cluster, x.id, x.inc, x.state); }
};

/// Leaves on purpose.
struct goodbye_msg {
  std::uint64_t cluster = 0;
  receiver_id id = 0;
  incarnation inc;

  friend bool operator==(const goodbye_msg&, const goodbye_msg&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.cluster, x.id, x.inc); }
};

/// Answer to an audit.
struct audit_reply_msg {
  std::uint64_t cluster = 0;
  receiver_id id = 0;
  incarnation inc;
  std::uint64_t challenge = 0;
  version_ref version;  ///< what the bytes are said to be; none: nothing was digested
  /// A digest a tensor in canonical order, lane 0 before lane 1, little-endian.
  payload digests;

  friend bool operator==(const audit_reply_msg&, const audit_reply_msg&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.cluster, x.id, x.inc, x.challenge, x.version, x.digests);
  }
};

}  // namespace lockstep
