// Decides what weights tests of deltas begin with, and how they change.
#pragma once

#include <cstddef>
#include <random>

#include "weights/bucket_codec.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep {

inline tensor_spans spans(weight_buffer& w) {
  tensor_spans out;
  for (std::size_t i = 0; i < w.shape().count(); ++i)
    out.push_back({{w.tensor(i).data(), w.tensor(i).size()}, unit_bytes(w.shape()[i].type)});
  return out;
}

inline tensor_views views(weight_buffer& w) {
  return as_views(spans(w));
}

inline weight_buffer random_weights(const layout& shape, std::mt19937_64& rng) {
  weight_buffer out(shape);
  for (std::size_t i = 0; i < shape.count(); ++i)
    for (auto& b : out.tensor(i)) b = static_cast<std::byte>(rng());
  return out;
}

/// About one byte in `every` is another.
inline weight_buffer changed(const weight_buffer& from, std::mt19937_64& rng, unsigned every) {
  auto out = from.clone();
  for (std::size_t i = 0; i < out.shape().count(); ++i)
    for (auto& b : out.tensor(i))
      if (rng() % every == 0) b ^= static_cast<std::byte>(1 + rng() % 255);
  return out;
}

}  // namespace lockstep
