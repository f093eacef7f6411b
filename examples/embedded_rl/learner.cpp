#include "learner.hpp"

#include <algorithm>
#include <cmath>

namespace embedded_rl {

namespace {

constexpr float learning_rate = 4e-3f;
constexpr float mean_decay = 0.9f;
constexpr float square_decay = 0.99f;
/// Large, so that weights of small gradients hardly move: few published weights change at a step.
constexpr float damping = 1e-2f;

/// How much better than its group each attempt was, in standard deviations.
std::vector<float> advantages(const group& attempts) {
  const auto count = static_cast<float>(attempts.size());
  float mean = 0;
  for (const auto& a : attempts) mean += a.total_reward / count;
  float variance = 0;
  for (const auto& a : attempts)
    variance += (a.total_reward - mean) * (a.total_reward - mean) / count;
  std::vector<float> out;
  for (const auto& a : attempts)
    out.push_back((a.total_reward - mean) / (std::sqrt(variance) + 1e-3f));
  return out;
}

}  // namespace

learner::learner(std::uint64_t seed) {
  random_stream chance{seed, 0x696e6974};
  const auto fill = [&](std::vector<float>& tensor, float bound) {
    for (auto& w : tensor) w = bound * (2 * chance.uniform() - 1);
  };
  fill(weights_[hidden_bias], 1.5f);
  fill(weights_[hidden_weight], 1.5f);
  fill(weights_[head_weight], 0.03f);  // nearly indifferent
}

void learner::learn(const std::vector<rollout>& batch) {
  for (auto& tensor : gradient_.tensors) std::fill(tensor.begin(), tensor.end(), 0.0f);
  std::size_t decisions = 0;
  for (const auto& r : batch)
    for (const auto& g : r.groups)
      for (const auto& e : g) decisions += e.decisions.size();
  for (const auto& r : batch) {
    for (const auto& g : r.groups) {
      const auto advantage = advantages(g);
      for (std::size_t i = 0; i < g.size(); ++i)
        for (const auto& d : g[i].decisions)
          add_gradient(d, advantage[i] / static_cast<float>(decisions));
    }
  }
  step();
}

/// Adds the gradient of `-weight * log p(action)`.
void learner::add_gradient(const decision& taken, float weight) {
  const auto made = forward(weights_, taken.seen);
  std::array<float, hidden_count> back{};
  for (std::size_t a = 0; a < made.probability.size(); ++a) {
    const float error = weight * (made.probability[a] - (a == taken.action ? 1.0f : 0.0f));
    const float* head = weights_.row(head_weight, a);
    float* into = gradient_.row(head_weight, a);
    for (std::size_t j = 0; j < hidden_count; ++j) {
      into[j] += error * made.hidden[j];
      back[j] += error * head[j];
    }
    gradient_[head_bias][a] += error;
  }
  for (std::size_t j = 0; j < hidden_count; ++j)
    if (made.hidden[j] <= 0) back[j] = 0;
  const auto add_to = [&](float* into) {
    for (std::size_t j = 0; j < hidden_count; ++j) into[j] += back[j];
  };
  add_to(gradient_[hidden_bias].data());
  for (const auto feature : taken.seen) add_to(gradient_.row(hidden_weight, feature));
}

void learner::step() {
  ++steps_;
  const float mean_scale = 1 / (1 - std::pow(mean_decay, static_cast<float>(steps_)));
  const float square_scale = 1 / (1 - std::pow(square_decay, static_cast<float>(steps_)));
  for (std::size_t t = 0; t < tensor_count; ++t) {
    float* w = weights_.tensors[t].data();
    const float* g = gradient_.tensors[t].data();
    float* m = mean_.tensors[t].data();
    float* s = square_.tensors[t].data();
    for (std::size_t i = 0; i < weights_.tensors[t].size(); ++i) {
      m[i] += (1 - mean_decay) * (g[i] - m[i]);
      s[i] += (1 - square_decay) * (g[i] * g[i] - s[i]);
      w[i] -= learning_rate * m[i] * mean_scale / (std::sqrt(s[i] * square_scale) + damping);
    }
  }
}

policy_weights<bf16> learner::rounded() const {
  policy_weights<bf16> out;
  for (std::size_t t = 0; t < tensor_count; ++t)
    std::transform(weights_.tensors[t].begin(), weights_.tensors[t].end(), out.tensors[t].begin(),
                   [](float w) { return bf16(w); });
  return out;
}

}  // namespace embedded_rl
