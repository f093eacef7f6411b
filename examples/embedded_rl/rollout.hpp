// Decides what an engine hands to the trainer: episodes, and which weights they were made with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "grid_world.hpp"

namespace embedded_rl {

struct decision {
  observation seen{};
  std::size_t action = 0;
};

struct episode {
  std::vector<decision> decisions;
  float total_reward = 0;
};

/// Attempts at one and the same task: what is better than their mean was a good idea.
using group = std::vector<episode>;

inline constexpr int tasks_per_engine = 4;
inline constexpr int attempts_per_task = 8;

struct rollout {
  std::uint64_t oldest_label = 0;  ///< of all weights that acted: the trainer's step
  std::vector<group> groups;
};

}  // namespace embedded_rl
