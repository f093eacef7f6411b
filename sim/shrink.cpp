// Makes a failing run small: fewer syncs, fewer strikes, the same kind of violation.
#include <algorithm>

#include "sim/campaign.hpp"

namespace lockstep::sim {

namespace {

/// The name of the promise that was broken.
std::string promise(const std::string& violation) {
  return violation.substr(0, violation.find(':'));
}

/// More than these are no use to a reader, nor on a command line.
constexpr std::size_t strikes_max = 1'000;
/// What a try costs at least.
constexpr std::uint64_t steps_min = 1'000;

class shrinker {
 public:
  shrinker(const run_options& o, std::uint64_t steps_max) : best_(o), left_(steps_max) {
    best_.level = trace_level::none;
  }

  /// None: there is nothing better than what was given.
  std::optional<small_run> work() {
    campaign_options apart;
    apart.each = best_;
    const auto first = run_campaign(apart);
    if (first.violations == 0) return std::nullopt;
    found_ = first.first_violation;
    wanted_ = promise(found_);
    if (wanted_ == "crash" || wanted_ == "hang")
      return std::nullopt;  // what struck in it is not known
    const auto whole = run(best_);
    const std::set<strike> all(whole.struck.begin(), whole.struck.end());
    best_.keep = best_.keep ? intersection(*best_.keep, all) : all;
    // A try that goes on for much longer is not the same run.
    best_.steps_max = 2 * first.steps;
    fewer_syncs();
    fewer_strikes();
    fewer_syncs();
    best_.steps_max = 0;
    if (best_.keep->size() > strikes_max) return std::nullopt;
    return small_run{best_, found_};
  }

 private:
  static std::set<strike> intersection(const std::set<strike>& a, const std::set<strike>& b) {
    std::set<strike> out;
    std::ranges::set_intersection(a, b, std::inserter(out, out.end()));
    return out;
  }

  bool breaks(const run_options& o) {
    if (left_ == 0) return false;
    campaign_options apart;
    apart.each = o;
    apart.each.steps_max = std::min(o.steps_max, left_);
    const auto r = run_campaign(apart);
    // What ended in a crash has counted no steps.
    left_ -= std::min(left_, std::max(r.steps, steps_min));
    if (r.violations == 0 || promise(r.first_violation) != wanted_) return false;
    found_ = r.first_violation;
    return true;
  }

  void fewer_syncs() {
    while (best_.syncs > 1) {
      auto trial = best_;
      trial.syncs = best_.syncs / 2;
      if (!breaks(trial)) {
        trial.syncs = best_.syncs - 1;
        if (!breaks(trial)) return;
      }
      best_ = trial;
    }
  }

  /// Leaves out halves, then quarters, down to single strikes (delta debugging).
  void fewer_strikes() {
    auto size = std::max<std::size_t>(best_.keep->size() / 2, 1);
    while (left_ > 0 && !best_.keep->empty()) {
      bool smaller = false;
      const std::vector<strike> all(best_.keep->begin(), best_.keep->end());
      for (std::size_t at = 0; at < all.size() && left_ > 0; at += size) {
        auto trial = best_;
        for (auto i = at; i < std::min(at + size, all.size()); ++i) trial.keep->erase(all[i]);
        if (trial.keep->size() == best_.keep->size() || !breaks(trial)) continue;
        best_ = trial;
        smaller = true;
      }
      if (size == 1 && !smaller) return;
      size = std::max<std::size_t>(size / 2, 1);
    }
  }

  run_options best_;
  std::uint64_t left_;
  std::string wanted_;
  std::string found_;  ///< what `best_` ends with
};

}  // namespace

small_run shrink(const run_options& o, std::uint64_t steps_max) {
  auto small = shrinker(o, steps_max).work();
  if (!small) return {o, {}};
  small->run.level = o.level;
  return *small;
}

}  // namespace lockstep::sim
