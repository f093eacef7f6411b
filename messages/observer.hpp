// Decides what a process that only looks on may ask of the trainer's side, and what it is told.
#pragma once

#include <cstdint>
#include <tuple>

#include "messages/ids.hpp"
#include "messages/report.hpp"

namespace lockstep {

/// What an observer wants to know.
enum class question : std::uint8_t {
  status,  ///< where everybody stands: a `status_line_msg` for each receiver, a `feed_line_msg` for
           ///< each stripe that one has from another, a `relayed_line_msg` for each who ever had
           ///< one, then the end
  audit,   ///< who holds what the snapshot holds, read afresh: an `audit_line_msg` for each, then
           ///< the end
  last_ = audit
};

/// An observer asks.
struct observe_msg {
  std::uint64_t cluster = 0;
  question what = question::status;

  friend bool operator==(const observe_msg&, const observe_msg&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.cluster, x.what); }
};

using status_line_msg = receiver_status;
using audit_line_msg = receiver_audit;

/// From whom a receiver gets one stripe of every delta.
struct feed_line_msg {
  receiver_id id = 0;
  std::uint32_t stripe = 0;
  std::uint32_t stripes = 0;
  receiver_id parent = 0;
  bool up = false;  ///< the two are linked; until then the trainer sends it

  friend bool operator==(const feed_line_msg&, const feed_line_msg&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.id, x.stripe, x.stripes, x.parent, x.up);
  }
};

/// What a receiver was brought by others than the trainer.
struct relayed_line_msg {
  receiver_id id = 0;
  std::uint64_t bytes = 0;  ///< of all its lives

  friend bool operator==(const relayed_line_msg&, const relayed_line_msg&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.id, x.bytes); }
};

/// Nothing follows.
struct observed_msg {
  version_ref fleet;         ///< what the snapshot holds; none while no trainer's side is up
  std::uint32_t lines = 0;   ///< of receivers that went before
  errc reason = errc::none;  ///< why the question could not be answered

  friend bool operator==(const observed_msg&, const observed_msg&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.fleet, x.lines, x.reason); }
};

}  // namespace lockstep
