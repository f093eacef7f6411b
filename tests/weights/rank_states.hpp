// Decides what the ranks of the tests of published streams hold, and how they publish it.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <future>
#include <string>
#include <vector>

#include "messages/errors.hpp"
#include "weights/published.hpp"
#include "weights/rank_publisher.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep::test {

namespace fs = std::filesystem;

inline weight_buffer filled(const layout& shape, unsigned seed) {
  weight_buffer weights(shape);
  for (std::size_t i = 0; i < shape.count(); ++i)
    for (auto& b : weights.tensor(i)) b = static_cast<std::byte>((seed = seed * 1664525 + 1) >> 24);
  return weights;
}

inline const layout first({{"a", dtype::bf16, {4, 4}}, {"c", dtype::f32, {2}}});
inline const layout second({{"b", dtype::u8, {5}},
                            {"d", dtype::f64, {}},
                            {"e", dtype::f32, {0, 3}}});

inline rank_options options_of(const fs::path& stream, std::uint32_t rank,
                               std::uint32_t ranks = 2) {
  rank_options out;
  out.stream.out = stream;
  out.rank = rank;
  out.ranks = ranks;
  out.patience = std::chrono::milliseconds(2000);
  return out;
}

/// Each rank's states, one after another, as versions 1, 2, … after the first; each rank a thread.
/// Gives what each of them ended with: nothing, or its error.
inline std::vector<std::string> publish(const fs::path& stream,
                                        const std::vector<std::vector<const weight_buffer*>>& ranks,
                                        std::uint64_t full_every = 0,
                                        const version_options& special = {}) {
  std::vector<std::future<std::string>> running;
  for (std::uint32_t r = 0; r < ranks.size(); ++r)
    running.push_back(std::async(std::launch::async, [&, r] {
      try {
        auto how = options_of(stream, r, static_cast<std::uint32_t>(ranks.size()));
        how.stream.full_every = full_every;
        rank_publisher rank(how);
        for (std::size_t v = 1; v < ranks[r].size(); ++v)
          rank.add(v, v - 1, source_of(*ranks[r][v - 1]), source_of(*ranks[r][v]), special);
        return std::string();
      } catch (const error& e) {
        return std::string(to_string(e.code())) + ": " + e.what();
      }
    }));
  std::vector<std::string> out;
  for (auto& r : running) out.push_back(r.get());
  return out;
}

}  // namespace lockstep::test
