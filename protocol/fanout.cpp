#include "protocol/fanout.hpp"

#include <algorithm>
#include <utility>

namespace lockstep {

/// Makes one plan from another.
class fanout_planner {
 public:
  fanout_planner(const fanout_plan& before, std::span<const fanout_member> members,
                 std::uint32_t degree)
      : before_(before) {
    const auto relays =
        static_cast<std::uint64_t>(std::ranges::count_if(members, &fanout_member::relays));
    if (members.size() < 2) return;
    plan_.stripes_ = static_cast<std::uint32_t>(std::min<std::uint64_t>(degree, relays));
    if (plan_.stripes_ == 0) return;
    same_stripes_ = before.stripes_ == plan_.stripes_;
    for (const auto& m : members) plan_.nodes_[m.id].places.resize(plan_.stripes_);
    share_out(members);
    for (std::uint32_t s = 0; s < plan_.stripes_; ++s) grow(s);
  }

  fanout_plan take() && { return std::move(plan_); }

 private:
  const fanout_plan::node* old(receiver_id id) const {
    if (!same_stripes_) return nullptr;
    const auto it = before_.nodes_.find(id);
    return it == before_.nodes_.end() ? nullptr : &it->second;
  }
  std::optional<receiver_id> old_parent(receiver_id id, std::uint32_t stripe) const {
    const auto* node = old(id);
    return node ? node->places[stripe].parent : std::nullopt;
  }
  std::uint32_t old_depth(receiver_id id, std::uint32_t stripe) const {
    const auto* node = old(id);
    return node ? node->places[stripe].depth : ~0u;
  }

  /// Decides which stripe each relay passes on: the one it did, or that of which there are fewest;
  /// no stripe has two more than another.
  void share_out(std::span<const fanout_member> members) {
    std::vector<std::vector<receiver_id>> of(plan_.stripes_);
    std::vector<receiver_id> fresh;
    for (const auto& m : members) {
      if (!m.relays) continue;
      const auto* was = old(m.id);
      if (was && was->passes_on)
        of[*was->passes_on].push_back(m.id);
      else
        fresh.push_back(m.id);
    }
    const auto fewer = [](const auto& a, const auto& b) { return a.size() < b.size(); };
    for (const auto id : fresh) std::ranges::min_element(of, fewer)->push_back(id);
    for (;;) {
      auto& most = *std::ranges::max_element(of, fewer);
      auto& least = *std::ranges::min_element(of, fewer);
      if (most.size() <= least.size() + 1) break;
      // The one furthest from the root has the fewest children to lose.
      const auto stripe = static_cast<std::uint32_t>(&most - of.data());
      const auto last = std::ranges::max_element(
          most, {}, [&](receiver_id id) { return std::pair(old_depth(id, stripe), id); });
      least.push_back(*last);
      most.erase(last);
    }
    for (std::uint32_t s = 0; s < plan_.stripes_; ++s)
      for (const auto id : of[s]) plan_.nodes_[id].passes_on = s;
  }

  bool inner(receiver_id id, std::uint32_t stripe) const {
    const auto it = plan_.nodes_.find(id);
    return it != plan_.nodes_.end() && it->second.passes_on == stripe;
  }

  /// The tree of one stripe: what is left of the old one, and whoever has no parent in it put where
  /// it is shallowest.
  void grow(std::uint32_t stripe) {
    children_.clear();
    std::vector<receiver_id> lost_inner, lost_leaves;
    std::optional<receiver_id> root;
    for (const auto& [id, node] : plan_.nodes_) {
      const auto* was = old(id);
      const auto parent = old_parent(id, stripe);
      if (parent && inner(*parent, stripe) && children_[*parent].size() < plan_.stripes_)
        children_[*parent].push_back(id);
      else if (was && !parent && !root && inner(id, stripe))
        root = id;
      else
        (inner(id, stripe) ? lost_inner : lost_leaves).push_back(id);
    }
    // Who was highest stays so.
    std::ranges::stable_sort(lost_inner, {}, [&](receiver_id id) { return old_depth(id, stripe); });
    auto next = lost_inner.begin();
    if (!root) root = *next++;  // there is one: every stripe has a relay, and none its own child
    for (; next != lost_inner.end(); ++next) attach_inner(*root, *next, stripe, lost_leaves);
    attach_leaves(*root, lost_leaves, stripe);
    write(*root, stripe);
  }

  /// All inner nodes below `root`, the shallowest first.
  std::vector<receiver_id> inner_below(receiver_id root, std::uint32_t stripe) const {
    std::vector<receiver_id> out{root};
    for (std::size_t i = 0; i < out.size(); ++i)
      if (const auto it = children_.find(out[i]); it != children_.end())
        for (const auto child : it->second)
          if (inner(child, stripe)) out.push_back(child);
    return out;
  }

  void attach_inner(receiver_id root, receiver_id id, std::uint32_t stripe,
                    std::vector<receiver_id>& lost_leaves) {
    const auto all = inner_below(root, stripe);
    for (const auto parent : all) {
      auto& its = children_[parent];
      if (its.size() < plan_.stripes_) return its.push_back(id);
      // A leaf makes way: there is always one, for the deepest have nothing else.
      const auto leaf = std::ranges::find_if(its, [&](auto c) { return !inner(c, stripe); });
      if (leaf == its.end()) continue;
      lost_leaves.push_back(*leaf);
      *leaf = id;
      return;
    }
  }

  /// Fills every inner node, then gives each one more, which stays where it was; whom that leaves
  /// the trainer sends to.
  void attach_leaves(receiver_id root, std::span<const receiver_id> leaves, std::uint32_t stripe) {
    const auto all = inner_below(root, stripe);
    auto next = leaves.begin();
    for (const auto parent : all)
      for (auto& its = children_[parent]; its.size() < plan_.stripes_ && next != leaves.end();)
        its.push_back(*next++);
    std::vector<receiver_id> more;
    for (; next != leaves.end(); ++next) {
      const auto parent = old_parent(*next, stripe);
      if (parent && inner(*parent, stripe) && children_[*parent].size() <= plan_.stripes_)
        children_[*parent].push_back(*next);
      else
        more.push_back(*next);
    }
    auto left = more.begin();
    for (const auto parent : all)
      if (auto& its = children_[parent]; its.size() <= plan_.stripes_ && left != more.end())
        its.push_back(*left++);
  }

  void write(receiver_id root, std::uint32_t stripe) {
    std::vector<receiver_id> reached{root};
    for (std::size_t i = 0; i < reached.size(); ++i) {
      const auto depth = plan_.nodes_[reached[i]].places[stripe].depth;
      for (const auto child : children_[reached[i]]) {
        plan_.nodes_[child].places[stripe] = {reached[i], depth + 1};
        reached.push_back(child);
      }
    }
  }

  const fanout_plan& before_;
  bool same_stripes_ = false;
  fanout_plan plan_;
  std::map<receiver_id, std::vector<receiver_id>> children_;  ///< in the tree being grown
};

fanout_plan plan_fanout(const fanout_plan& before, std::span<const fanout_member> members,
                        std::uint32_t degree) {
  return fanout_planner(before, members, degree).take();
}

}  // namespace lockstep
