// Decides when others who were to bring buckets to a receiver have had their time. Pure.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "protocol/fanout.hpp"
#include "protocol/join_fsm.hpp"

namespace lockstep {

/// Watches what comes of each stripe of one shipment to one receiver. Total, not thread-safe.
class relay_watch {
 public:
  /// Stripe s of the `count` buckets from `first` on comes from `from[s]`, if that names a parent.
  void on_start(time_point now, std::chrono::milliseconds patience, std::uint32_t first,
                std::uint32_t count, const std::vector<fanout_plan::place>& from) {
    stripes_.assign(from.size(), {});
    const auto n = static_cast<std::uint32_t>(from.size());
    for (std::uint32_t s = 0; s < n; ++s) {
      const auto before = (s + n - first % n) % n;  // the stripe's first bucket comes after these
      if (before < count) on_handed(now, patience, s, (count - before - 1) / n + 1, from[s]);
    }
  }
  /// `missing` buckets of a stripe come from there from now on, if that names a parent.
  void on_handed(time_point now, std::chrono::milliseconds patience, std::uint32_t stripe,
                 std::uint32_t missing, const fanout_plan::place& from) {
    if (stripe >= stripes_.size() || !from.parent) return;
    // Whoever is further down waits longer: what its parent lacks, the parent gets first.
    const auto extra = from.depth > 2 ? from.depth - 2 : 0;
    stripes_[stripe] = {missing, patience + patience * extra / 2, now, from.parent, false};
  }
  void on_stop() { stripes_.clear(); }

  /// The receiver has a bucket that others were to bring.
  void on_taken(time_point now, std::uint32_t index) {
    if (stripes_.empty()) return;
    auto& s = stripes_[index % stripes_.size()];
    if (s.missing == 0) return;
    --s.missing;
    s.heard = now;
    s.forgiven = false;
  }

  /// Others do not bring this stripe any more; returns who was to.
  std::optional<receiver_id> drop(std::uint32_t stripe) {
    if (stripe >= stripes_.size() || stripes_[stripe].missing == 0) return std::nullopt;
    stripes_[stripe].missing = 0;
    return stripes_[stripe].parent;
  }

  /// The stripes of which nothing has come for too long. Who asks far too late was stopped itself,
  /// and what came meanwhile waits to be taken: then the time begins anew, once.
  std::vector<std::uint32_t> stalled(time_point now) {
    std::vector<std::uint32_t> out;
    for (std::uint32_t s = 0; s < stripes_.size(); ++s) {
      auto& w = stripes_[s];
      if (w.missing == 0 || now < w.due()) continue;
      if (!w.forgiven && now > w.due() + w.patience / 2) {
        w.forgiven = true;
        w.heard = now;
      } else {
        out.push_back(s);
      }
    }
    return out;
  }
  /// When one will be, if nothing comes.
  std::optional<time_point> deadline() const {
    std::optional<time_point> out;
    for (const auto& s : stripes_)
      if (s.missing != 0 && (!out || s.due() < *out)) out = s.due();
    return out;
  }
  std::uint32_t stripes() const { return static_cast<std::uint32_t>(stripes_.size()); }

 private:
  struct watched {
    std::uint32_t missing = 0;
    std::chrono::milliseconds patience{0};
    time_point heard;
    std::optional<receiver_id> parent;
    bool forgiven = false;

    time_point due() const { return heard + patience; }
  };
  std::vector<watched> stripes_;
};

}  // namespace lockstep
