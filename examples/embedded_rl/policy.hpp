// Decides what acts: a policy of two layers, in whatever type its weights are held.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <lockstep/lockstep.hpp>
#include <numeric>
#include <vector>

#include "grid_world.hpp"

namespace embedded_rl {

inline constexpr std::size_t hidden_count = 256;

/// The tensors in Lockstep's canonical order, which is that of their names.
enum tensor_index : std::size_t {
  head_bias,      ///< [action_count]
  head_weight,    ///< [action_count, hidden_count]
  hidden_bias,    ///< [hidden_count]
  hidden_weight,  ///< [feature_count, hidden_count]: one row for each feature
  tensor_count
};

/// How the policy is published.
inline lockstep::layout policy_layout() {
  using lockstep::dtype;
  return lockstep::layout({
      {"head.bias", dtype::bf16, {grid_world::action_count}},
      {"head.weight", dtype::bf16, {grid_world::action_count, hidden_count}},
      {"hidden.bias", dtype::bf16, {hidden_count}},
      {"hidden.weight", dtype::bf16, {grid_world::feature_count, hidden_count}},
  });
}

/// Anything that is held once for each weight: the weights, their gradients, Adam's moments.
template <class Scalar>
struct policy_weights {
  std::array<std::vector<Scalar>, tensor_count> tensors{
      std::vector<Scalar>(grid_world::action_count),
      std::vector<Scalar>(grid_world::action_count* hidden_count),
      std::vector<Scalar>(hidden_count),
      std::vector<Scalar>(grid_world::feature_count* hidden_count)};

  std::vector<Scalar>& operator[](tensor_index i) { return tensors[i]; }
  const std::vector<Scalar>& operator[](tensor_index i) const { return tensors[i]; }
  Scalar* row(tensor_index i, std::size_t r) { return tensors[i].data() + r * hidden_count; }
  const Scalar* row(tensor_index i, std::size_t r) const {
    return tensors[i].data() + r * hidden_count;
  }
};

/// What one observation gives rise to.
struct activations {
  std::array<float, hidden_count> hidden;
  std::array<float, grid_world::action_count> probability;
};

template <class Scalar>
activations forward(const policy_weights<Scalar>& net, const observation& seen) {
  activations out;
  float* hidden = out.hidden.data();
  std::copy(net[hidden_bias].begin(), net[hidden_bias].end(), hidden);
  for (const auto feature : seen) {
    const Scalar* row = net.row(hidden_weight, feature);
    for (std::size_t j = 0; j < hidden_count; ++j) hidden[j] += row[j];
  }
  for (auto& h : out.hidden) h = std::max(h, 0.0f);

  auto& p = out.probability;
  for (std::size_t a = 0; a < p.size(); ++a)
    p[a] = std::inner_product(hidden, hidden + hidden_count, net.row(head_weight, a),
                              static_cast<float>(net[head_bias][a]));
  const float top = *std::max_element(p.begin(), p.end());
  float sum = 0;
  for (auto& x : p) sum += x = std::exp(x - top);
  for (auto& x : p) x /= sum;
  return out;
}

inline std::size_t sample(const activations& made, random_stream& chance) {
  float left = chance.uniform();
  std::size_t action = 0;
  while (action + 1 < made.probability.size() && left >= made.probability[action])
    left -= made.probability[action++];
  return action;
}

}  // namespace embedded_rl
