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
           ///< one, a `failed_line_msg` for each who ever failed, then the end
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
using feed_line_msg = receiver_feed;
using relayed_line_msg = receiver_relayed;
using failed_line_msg = receiver_failure;

/// Nothing follows.
struct observed_msg {
  version_ref fleet;         ///< what the snapshot holds; none while no trainer's side is up
  std::uint32_t lines = 0;   ///< of receivers that went before
  errc reason = errc::none;  ///< why the question could not be answered

  friend bool operator==(const observed_msg&, const observed_msg&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.fleet, x.lines, x.reason); }
};

}  // namespace lockstep
