// Decides what the ranks of one trainer say to each other. The coordinator (rank 0) leads; every
// rank owns some tensors, and encodes, proves, ships and advances those.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>

#include "messages/errors.hpp"
#include "messages/from_receiver.hpp"
#include "messages/ids.hpp"
#include "messages/payload.hpp"
#include "messages/to_receiver.hpp"

namespace lockstep {

/// First word of a rank to the coordinator.
struct shard_hello_msg {
  std::uint64_t cluster = 0;
  std::uint32_t rank = 0;   ///< from 1
  std::uint32_t ranks = 0;  ///< how many there are, the coordinator included
  incarnation inc;          ///< of this life of the rank
  hash128 layout;           ///< of the whole model
  payload owned;            ///< indices of its tensors, ascending, u32 each, little-endian

  friend bool operator==(const shard_hello_msg&, const shard_hello_msg&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.cluster, x.rank, x.ranks, x.inc, x.layout, x.owned);
  }
};

/// What a rank is to do with its tensors. Each is answered by one `shard_result_msg`, but `drop`
/// and `end`.
enum class shard_task : std::uint8_t {
  seed,     ///< hold what the trainer calls `label` as version {run, 0}
  encode,   ///< what leads from what is held to what the trainer calls `label`
  prove,    ///< digest what is held under `challenge`
  plan,     ///< a full transfer of what is held, or of what its last `label` steps changed
  advance,  ///< hold what was encoded
  drop,     ///< forget what was encoded or planned; `label`: 1 if it was heard to encode, else 0
  digests,  ///< of each tensor under `challenge`
  end,      ///< the run is over; `label`: 1 if no other follows, else 0; not answered either
  carve,    ///< what of what was staged is of the tensors named, and prove it
  stage,    ///< prove what was encoded, under `challenge`
  last_ = stage
};

std::string_view to_string(shard_task what) noexcept;

/// The coordinator to a rank. `prove`, `plan` and `carve` are of what receivers take that take a
/// part of the model's tensors, if `taken` is not empty.
struct shard_task_msg {
  std::uint64_t cluster = 0;
  shard_task what = shard_task::drop;
  txn_ref txn;
  std::uint64_t label = 0;
  std::uint64_t challenge = 0;
  std::uint32_t part = 0;  ///< what the coordinator calls what is asked for; the answer quotes it
  payload taken = {};      ///< as in `hello_msg`

  friend bool operator==(const shard_task_msg&, const shard_task_msg&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.cluster, x.what, x.txn, x.label, x.challenge, x.part, x.taken);
  }
};

/// A rank to the coordinator. Digests are of its own tensors: the sum over all ranks is that of the
/// model.
struct shard_result_msg {
  std::uint64_t cluster = 0;
  std::uint32_t rank = 0;
  incarnation inc;
  shard_task what = shard_task::drop;
  txn_ref txn;
  std::uint64_t challenge = 0;
  std::uint32_t part = 0;
  errc reason = errc::none;
  std::string detail;  ///< one line for people; at most `reply_detail_max` bytes
  manifest content;    ///< of `encode`, `plan` and `carve`
  digest base;         ///< of `carve`: what it leads from, under the public key
  digest state;        ///< what is held, or led to, under the public key; not of a whole `prove`
  digest proof;        ///< under the challenge
  payload digests;     ///< as in `audit_reply_msg`

  friend bool operator==(const shard_result_msg&, const shard_result_msg&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.cluster, x.rank, x.inc, x.what, x.txn, x.challenge, x.part, x.reason,
                    x.detail, x.content, x.base, x.state, x.proof, x.digests);
  }
};

/// The coordinator to a rank: ship your buckets of this transaction to a receiver that has been
/// told of all of them.
struct shard_ship_msg {
  std::uint64_t cluster = 0;
  txn_ref txn;
  receiver_id id = 0;
  incarnation inc;
  std::uint32_t first = 0;  ///< index of the rank's first bucket among all
  std::uint32_t round = 0;  ///< of a redo; 0: the first time
  bool full = false;        ///< of the plan, not of the delta
  std::uint32_t part = 0;   ///< as the task called it; 0: the delta as it was encoded

  friend bool operator==(const shard_ship_msg&, const shard_ship_msg&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.cluster, x.txn, x.id, x.inc, x.first, x.round, x.full, x.part);
  }
};

/// A rank to the coordinator: whether this life of a receiver is linked to it, and what it was
/// sent.
struct shard_reach_msg {
  std::uint64_t cluster = 0;
  std::uint32_t rank = 0;
  receiver_id id = 0;
  incarnation inc;
  bool linked = false;
  std::uint64_t sent = 0;  ///< bulk bytes handed to this receiver by the rank's process

  friend bool operator==(const shard_reach_msg&, const shard_reach_msg&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.cluster, x.rank, x.id, x.inc, x.linked, x.sent);
  }
};

/// The coordinator to a rank: from whom a receiver gets each stripe of what is passed on. The last
/// word about a life stands.
struct shard_route_msg {
  std::uint64_t cluster = 0;
  receiver_id id = 0;
  incarnation inc;
  payload from;  ///< for each stripe its parent and how deep it is, u32 each, little-endian; 0
                 ///< deep: from the trainer

  friend bool operator==(const shard_route_msg&, const shard_route_msg&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.cluster, x.id, x.inc, x.from); }
};

/// The coordinator to a rank, before it asks it to ship: these receivers get the same shipment, and
/// may have it from each other.
struct shard_among_msg {
  std::uint64_t cluster = 0;
  txn_ref txn;
  std::uint32_t round = 0;
  payload ids;  ///< ascending, u32 each, little-endian

  friend bool operator==(const shard_among_msg&, const shard_among_msg&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.cluster, x.txn, x.round, x.ids); }
};

/// A rank to the coordinator: `child` waits in vain for what `parent` was to bring of the rank's
/// buckets.
struct shard_stalled_msg {
  std::uint64_t cluster = 0;
  std::uint32_t rank = 0;
  receiver_id child = 0;
  receiver_id parent = 0;

  friend bool operator==(const shard_stalled_msg&, const shard_stalled_msg&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.cluster, x.rank, x.child, x.parent); }
};

/// The trainer's side to a receiver or to a rank that it can do nothing with as it is. `restarted`
/// and `busy` are for now: another has its place, which may become free. Any other reason is for
/// good.
struct refused_msg {
  std::uint64_t cluster = 0;
  incarnation inc;  ///< of the life that is refused
  errc reason = errc::none;
  std::string detail;  ///< one line for people; at most `reply_detail_max` bytes

  friend bool operator==(const refused_msg&, const refused_msg&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.cluster, x.inc, x.reason, x.detail); }
};

/// Nothing but that the speaker is there. Said over every link when there is nothing else to say.
struct beat_msg {
  std::uint64_t cluster = 0;

  friend bool operator==(const beat_msg&, const beat_msg&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.cluster); }
};

}  // namespace lockstep
