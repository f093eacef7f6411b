// Decides how what a trainer commits also goes into a directory, for hosts that no connection
// reaches.
#pragma once

#include <cstdint>
#include <optional>

#include "actors/published_trainer.hpp"
#include "actors/ticket.hpp"
#include "messages/report.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep {

/// A published stream that follows a trainer. What fails there is printed and counted, and ends no
/// training: the next version starts from what the stream holds. Not thread-safe, but for `stop`.
class live_publication {
 public:
  /// Throws as `published_trainer`.
  live_publication(layout shape, published_fleet_options options, bool json);

  /// What the stream begins with, if it is empty; else published whole unless it holds just that.
  void seed(const weight_buffer& weights, std::uint64_t label);
  /// Publishes them. Waits for the hosts of the version before, not for those of this one; the
  /// weights have been read when it returns.
  void add(const weight_buffer& weights, std::uint64_t label);
  /// Waits for the hosts of the last version.
  void finish();
  /// The port on which hosts are listened to; 0: none.
  std::uint16_t port() const noexcept { return to_.port(); }
  /// Ends what waits.
  void stop() noexcept { to_.stop(); }
  /// Whether every version so far is published and held by all hosts that were named.
  bool complete() const noexcept { return complete_; }

 private:
  void print(const sync_report& report);
  void fail(std::uint64_t label, const char* why);

  published_trainer to_;
  bool json_;
  bool complete_ = true;
  std::optional<ticket> pending_;
};

}  // namespace lockstep
