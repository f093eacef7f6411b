// Decides what realistic changes the tests of the coded encoding run on: every kind of element.
#pragma once

#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "kernels/coded.hpp"
#include "tests/kernels/tensors.hpp"

namespace lockstep::kernels {

enum class kind_of_element { floats, integers, nibbles };

/// An element's layout: sign, `exponent` bits, the rest fraction; or an integer; or two of them.
struct element_kind {
  std::string name;
  kind_of_element what = kind_of_element::floats;
  std::uint32_t unit = 2;
  int exponent = 8;
};

inline std::vector<element_kind> kinds() {
  return {{"bf16", kind_of_element::floats, 2, 8},     {"fp16", kind_of_element::floats, 2, 5},
          {"fp8 e4m3", kind_of_element::floats, 1, 4}, {"fp8 e5m2", kind_of_element::floats, 1, 5},
          {"fp32", kind_of_element::floats, 4, 8},     {"fp64", kind_of_element::floats, 8, 11},
          {"int8", kind_of_element::integers, 1, 0},   {"int32", kind_of_element::integers, 4, 0},
          {"int4", kind_of_element::nibbles, 1, 0}};
}

/// `base` and `target` of `elements`, of which about `density` take a step as training makes them:
/// mostly one place, sometimes many; smaller floats more often. A few are special or random.
inline std::pair<buffer, buffer> make_change(std::mt19937_64& random, const element_kind& kind,
                                             std::size_t elements, double density) {
  buffer base(elements * kind.unit);
  const int bits = static_cast<int>(8 * kind.unit);
  const int fraction = bits - 1 - kind.exponent;
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform;
  const auto put = [&](buffer& to, std::size_t i, std::uint64_t value) {
    std::memcpy(&to[i * kind.unit], &value, kind.unit);
  };
  const std::uint64_t ones = bits == 64 ? ~0ull : (1ull << bits) - 1;
  std::vector<double> chance(elements, density);
  for (std::size_t i = 0; i < elements; ++i) {
    std::uint64_t value = random();
    if (kind.what == kind_of_element::integers) {
      value = static_cast<std::uint64_t>(std::llround(normal(random) * 30));
    } else if (kind.what == kind_of_element::floats && random() % 100 != 0) {
      const double octaves = std::min(0.0, std::log2(std::abs(normal(random)) + 1e-9));
      const auto exponent = static_cast<std::uint64_t>(
          std::max(0.0, std::exp2(kind.exponent - 1) - 2 + std::floor(octaves)));
      value = (exponent << fraction | (random() & ((1ull << fraction) - 1))) | (random() % 2)
                                                                                   << (bits - 1);
      chance[i] = std::min(1.0, density * std::exp2(-octaves - 1));
    }
    put(base, i, value & ones);
  }
  buffer target = base;
  for (std::size_t i = 0; i < elements; ++i) {
    if (uniform(random) >= chance[i]) continue;
    std::uint64_t value = 0;
    std::memcpy(&value, &base[i * kind.unit], kind.unit);
    const std::uint64_t size = random() % 10 != 0 ? 1 : 1 + random() % 9;
    const bool up = random() % 2 != 0;
    if (random() % 500 == 0)
      value = random();  // a sign crossed, a NaN, anything
    else if (kind.what == kind_of_element::nibbles)
      value = random() % 2 != 0 ? (value & 0xf0) | ((value + (up ? 1u : 15u)) & 15)
                                : value + (up ? 16u : 240u);
    else
      value += up ? size : 0 - size;
    put(target, i, value & ones);
  }
  return {std::move(base), std::move(target)};
}

inline class_model random_model(std::mt19937_64& random, std::uint32_t unit) {
  class_model model;
  model.classes = static_cast<std::uint8_t>(1 + random() % class_count_max);
  model.order = static_cast<step_order>(random() % (unit == 1 ? 3 : 2));
  std::vector<std::uint8_t> keys(255);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = static_cast<std::uint8_t>(i + 1);
  std::shuffle(keys.begin(), keys.end(), random);
  // Close together in every second case: what the vector forms look up in a table.
  if (random() % 2 == 0)
    for (std::size_t i = 0; i < class_count_max; ++i) keys[i] = static_cast<std::uint8_t>(100 + i);
  std::sort(keys.begin(), keys.begin() + model.classes - 1);
  std::copy_n(keys.begin(), model.classes - 1, model.thresholds.begin());
  return model;
}

/// The coded frames (raw or full where those are shorter) of a whole tensor of index 0.
inline buffer encode_coded(tensor_view base, tensor_view target, const class_model& model) {
  delta_encoder encoder;
  buffer out;
  for (std::size_t at = 0; at < target.bytes.size; at += frame_span_bytes_max)
    encoder.encode(0, base, target, at, model, encoding_choice::coded, out);
  return out;
}

}  // namespace lockstep::kernels
