// Decides when a receiver gets a bucket, where several ranks of a trainer ship to it: not before it
// was told of the shipment, as its links see to (actors/trainer_link.cpp).
#pragma once

#include <caf/actor_control_block.hpp>
#include <functional>
#include <map>
#include <vector>

#include "actors/link.hpp"
#include "sim/scheduler.hpp"

namespace lockstep::sim {

/// What one life of a receiver has been told of, over all of its links.
class arrivals {
 public:
  struct bucket {
    bulk_bucket what;
    caf::strong_actor_ptr from;
  };
  using taker = std::function<void(bucket)>;

  /// A shipment was announced: whatever has come of it by now is to be taken, after that word.
  /// False: it was before, or it is over.
  bool on_announced(const shipment& what, const taker& take) {
    if (what <= seen_) return false;
    seen_ = what;
    for (auto& early : std::exchange(held_, {})) {
      const auto of = shipment_of_bucket(early.what);
      if (of == what)
        take(std::move(early));
      else if (of > what)
        held_.push_back(std::move(early));
    }
    return true;
  }
  void on_bucket(bucket b, const taker& take) {
    const auto of = shipment_of_bucket(b.what);
    if (of < seen_) return;  // it is over
    if (of == seen_) return take(std::move(b));
    // In reality that ends the link.
    if (held_.size() < held_max) held_.push_back(std::move(b));
  }

 private:
  static constexpr std::size_t held_max = 2 * 1'024;
  static shipment shipment_of_bucket(const bulk_bucket& b) { return {b.bucket.env.txn, b.round}; }

  shipment seen_;
  std::vector<bucket> held_;
};

}  // namespace lockstep::sim
