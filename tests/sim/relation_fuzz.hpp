// Drives one receiver's machine with whatever anybody might say, in any order, under an executor
// that fails as it likes, and shows every step.
#pragma once

#include <functional>
#include <optional>
#include <random>
#include <vector>

#include "sim/relation.hpp"

namespace lockstep::sim {

class receiver_fuzz {
 public:
  explicit receiver_fuzz(std::uint64_t seed);

  /// One message, tick or word of the executor.
  void step();

  std::function<void(const receiver_step&)> on_step;
  std::function<void(const receiver_fsm::summary&)> on_start;

 private:
  using actions = receiver_fsm::actions;
  /// The executor's answer to an action.
  using word = std::function<actions(receiver_fsm&)>;

  std::uint64_t below(std::uint64_t n) { return rng_() % n; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }

  void be_born();
  void plan();
  void plan_delta(txn_ref txn);
  actions handle(const wire_message& m);
  void perform(actions list, receiver_step& step);
  word answer_of(const receiver_action::any& a);
  word applied(txn_ref txn, const target_info& target);

  std::mt19937_64 rng_;
  settings settings_;
  std::optional<receiver_fsm> fsm_;
  time_point now_{};
  incarnation inc_;
  std::uint64_t lives_ = 0;
  std::vector<std::uint64_t> seq_ = std::vector<std::uint64_t>(4, 0);  ///< of each run
  std::vector<wire_message> said_;  ///< of all that was ever said, the newest last
  std::vector<word> words_;         ///< what the executor has yet to say
  std::uint64_t lazy_ = 3;          ///< it says something in one of so many steps
};

}  // namespace lockstep::sim
