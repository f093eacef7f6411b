// Decides where chance comes from: one stream for each purpose, the same wherever it is run.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <random>
#include <vector>

namespace embedded_rl {

/// The standard's engines are specified to the bit, its distributions are not.
class random_stream {
 public:
  /// Streams of different names are independent.
  random_stream(std::initializer_list<std::uint64_t> name) {
    std::vector<std::uint32_t> words;
    for (const auto part : name) {
      words.push_back(static_cast<std::uint32_t>(part));
      words.push_back(static_cast<std::uint32_t>(part >> 32));
    }
    std::seed_seq seed(words.begin(), words.end());
    engine_.seed(seed);
  }

  /// In [0, 1).
  float uniform() { return static_cast<float>(engine_() >> 40) * 0x1p-24f; }
  /// In [0, count).
  int below(int count) { return static_cast<int>(uniform() * static_cast<float>(count)); }

 private:
  std::mt19937_64 engine_;
};

}  // namespace embedded_rl
