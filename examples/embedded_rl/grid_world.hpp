// Decides the task: walk to a goal on a square grid in as few moves as possible.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "random.hpp"

namespace embedded_rl {

/// Which inputs of the policy are 1: row, column and place of the walker, and the same of the goal.
using observation = std::array<std::uint8_t, 6>;

/// One episode. Every move costs `1 / moves_max`, the goal pays 1, and after `moves_max` moves it
/// is over: the return is -1 for never getting there, and close to 1 for going straight.
class grid_world {
 public:
  static constexpr int side = 6;
  static constexpr int moves_max = 24;
  static constexpr int place_count = side * side;
  static constexpr std::size_t feature_count = 2 * (2 * side + place_count);
  static constexpr std::size_t action_count = 4;

  /// A task: a start and another place as the goal.
  explicit grid_world(random_stream& chance) {
    const int start = chance.below(place_count);
    const int goal = (start + 1 + chance.below(place_count - 1)) % place_count;
    row_ = start / side;
    column_ = start % side;
    goal_row_ = goal / side;
    goal_column_ = goal % side;
  }

  observation observe() const {
    observation out;
    auto next = out.begin();
    int first = 0;
    const auto add = [&](int value, int count) {
      *next++ = static_cast<std::uint8_t>(first + value);
      first += count;
    };
    add(row_, side);
    add(column_, side);
    add(row_ * side + column_, place_count);
    add(goal_row_, side);
    add(goal_column_, side);
    add(goal_row_ * side + goal_column_, place_count);
    return out;
  }

  /// Up, down, left, right. A wall stops the walker, who pays all the same.
  void move(std::size_t action) {
    static constexpr std::array<std::array<int, 2>, action_count> steps{
        {{-1, 0}, {1, 0}, {0, -1}, {0, 1}}};
    row_ = std::clamp(row_ + steps[action][0], 0, side - 1);
    column_ = std::clamp(column_ + steps[action][1], 0, side - 1);
    ++moves_;
  }

  bool arrived() const { return row_ == goal_row_ && column_ == goal_column_; }
  bool over() const { return arrived() || moves_ == moves_max; }
  float total_reward() const {
    return (arrived() ? 1.0f : 0.0f) - static_cast<float>(moves_) / static_cast<float>(moves_max);
  }

 private:
  int row_ = 0;
  int column_ = 0;
  int goal_row_ = 0;
  int goal_column_ = 0;
  int moves_ = 0;
};

}  // namespace embedded_rl
