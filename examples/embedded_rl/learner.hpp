// Decides how the policy is improved: REINFORCE with group-normalised advantages, and Adam.
#pragma once

#include <cstdint>
#include <vector>

#include "bf16.hpp"
#include "policy.hpp"
#include "rollout.hpp"

namespace embedded_rl {

/// Holds the weights as floats, and publishes them as bfloat16: a step of the optimiser is smaller
/// than what most published weights can show, so that few of them change.
class learner {
 public:
  explicit learner(std::uint64_t seed);

  /// One optimiser step on the episodes of all engines.
  void learn(const std::vector<rollout>& batch);

  policy_weights<bf16> rounded() const;

 private:
  void add_gradient(const decision& taken, float weight);
  void step();

  policy_weights<float> weights_;
  policy_weights<float> gradient_;
  policy_weights<float> mean_;
  policy_weights<float> square_;
  int steps_ = 0;
};

}  // namespace embedded_rl
