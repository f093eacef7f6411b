// Decides what is said so that receivers pass buckets on to receivers. The trainer's side plans who
// gets what from whom; what a bucket must be stays the trainer's own word, in announcements.
//
// The buckets of a shipment are dealt out over stripes: bucket i is of stripe i mod `stripes`.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>

#include "messages/errors.hpp"
#include "messages/ids.hpp"

namespace lockstep {

/// Longest host that travels, in bytes.
inline constexpr std::size_t relay_text_max = 256;
/// Stripes of a plan, at most.
inline constexpr std::uint32_t relay_stripes_max = 16;

/// A receiver to the supervisor: other receivers may have buckets from me, here.
struct relay_offer_msg {
  std::uint64_t cluster = 0;
  receiver_id id = 0;
  incarnation inc;
  std::string host;  ///< empty: the one that this is said from; at most `relay_text_max` bytes
  std::uint32_t port = 0;

  friend bool operator==(const relay_offer_msg&, const relay_offer_msg&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.cluster, x.id, x.inc, x.host, x.port); }
};

/// The supervisor to a receiver: from whom it gets one stripe. The highest number of the highest
/// run stands.
struct relay_parent_msg {
  std::uint64_t cluster = 0;
  incarnation inc;            ///< of the receiver
  version_ref order;          ///< the trainer's run, and the order's number in it
  std::uint32_t stripes = 1;  ///< that there are
  std::uint32_t stripe = 0;
  receiver_id parent = 0;
  std::string name;        ///< the parent's, which it must prove; at most `relay_text_max` bytes
  std::string host;        ///< empty: the trainer sends this stripe itself
  std::uint32_t port = 0;  ///< likewise 0

  friend bool operator==(const relay_parent_msg&, const relay_parent_msg&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.cluster, x.inc, x.order, x.stripes, x.stripe, x.parent, x.name, x.host,
                    x.port);
  }
};

/// A receiver to the supervisor: what has become of an order.
struct relay_link_msg {
  std::uint64_t cluster = 0;
  receiver_id id = 0;
  incarnation inc;
  version_ref order;
  std::uint32_t stripe = 0;
  bool up = false;           ///< linked to the parent
  errc reason = errc::none;  ///< why not, or not any more; none: not yet

  friend bool operator==(const relay_link_msg&, const relay_link_msg&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.cluster, x.id, x.inc, x.order, x.stripe, x.up, x.reason);
  }
};

/// A receiver to its parent: pass this stripe on to me.
struct relay_ask_msg {
  std::uint64_t cluster = 0;
  receiver_id id = 0;
  incarnation inc;            ///< that buckets are to be addressed to
  receiver_id parent = 0;     ///< who is meant
  std::uint32_t stripes = 0;  ///< that there are; 0: pass nothing on to me any more
  std::uint32_t stripe = 0;

  friend bool operator==(const relay_ask_msg&, const relay_ask_msg&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.cluster, x.id, x.inc, x.parent, x.stripes, x.stripe);
  }
};

/// The trainer to a receiver: another one is being sent all weights of `version`, which you hold or
/// are being sent too. Pass on to it what it has asked for of them, made from your own.
struct relay_lend_msg {
  std::uint64_t cluster = 0;
  incarnation inc;      ///< whose weights
  txn_ref txn;          ///< the other's transfer
  version_ref version;  ///< that it leads to
  receiver_id child = 0;
  incarnation child_inc;
  std::uint64_t bucket_bytes_max = 0;  ///< how weights are cut into buckets, and
  std::uint32_t buckets = 0;           ///< how many these are
  std::uint32_t first = 0;             ///< those before it are sent by the trainer

  friend bool operator==(const relay_lend_msg&, const relay_lend_msg&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.cluster, x.inc, x.txn, x.version, x.child, x.child_inc, x.bucket_bytes_max,
                    x.buckets, x.first);
  }
};

}  // namespace lockstep
