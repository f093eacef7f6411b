// Decides from whom each receiver gets which buckets: striped trees. Pure.
//
// Bucket i is of stripe i mod s. Each stripe goes down a tree of its own, whose inner nodes are
// inner nodes of no other: whoever passes one stripe on to s others uploads about one delta, as
// much as it takes in, and the trainer sends each stripe to one root.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "messages/ids.hpp"

namespace lockstep {

struct fanout_member {
  receiver_id id = 0;
  bool relays = false;  ///< may pass buckets on
};

/// Who has what from whom. A plain value.
class fanout_plan {
 public:
  /// One member's place in the tree of one stripe.
  struct place {
    std::optional<receiver_id> parent;  ///< none: the trainer
    std::uint32_t depth = 1;            ///< 1: has it from the trainer

    friend bool operator==(const place&, const place&) = default;
  };
  struct node {
    std::optional<std::uint32_t> passes_on;  ///< the one stripe that it may have children in
    std::vector<place> places;               ///< by stripe

    friend bool operator==(const node&, const node&) = default;
  };

  /// 0: nobody relays.
  std::uint32_t stripes() const noexcept { return stripes_; }
  const std::map<receiver_id, node>& nodes() const noexcept { return nodes_; }

  friend bool operator==(const fanout_plan&, const fanout_plan&) = default;

 private:
  friend class fanout_planner;
  std::uint32_t stripes_ = 0;
  std::map<receiver_id, node> nodes_;
};

/// A plan for `members`, whose ids differ, with at most `degree` stripes. Keeps what it can of the
/// plan `before`, so that who comes or goes moves few. Without two members of which one relays, and
/// for degree 0, nobody has anything from anybody.
fanout_plan plan_fanout(const fanout_plan& before, std::span<const fanout_member> members,
                        std::uint32_t degree);

}  // namespace lockstep
