// Decides where the simulator's chance comes from: integers only, the same on every machine.
#pragma once

#include <cstdint>

namespace lockstep::sim {

/// A well-mixed function of `x` (the finaliser of SplitMix64, Steele et al. 2014).
constexpr std::uint64_t mix(std::uint64_t x) noexcept {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

constexpr std::uint64_t mix(std::uint64_t a, std::uint64_t b) noexcept {
  return mix(mix(a) ^ b);
}
constexpr std::uint64_t mix(std::uint64_t a, std::uint64_t b, std::uint64_t c) noexcept {
  return mix(mix(a, b) ^ c);
}

/// A stream of numbers.
class random_stream {
 public:
  explicit random_stream(std::uint64_t seed) : seed_(seed) {}

  std::uint64_t operator()() { return mix(seed_, ++drawn_); }
  /// Below `bound`, which is not 0.
  std::uint64_t below(std::uint64_t bound) { return (*this)() % bound; }
  bool chance(std::uint64_t in, std::uint64_t of) { return below(of) < in; }

 private:
  std::uint64_t seed_;
  std::uint64_t drawn_ = 0;
};

}  // namespace lockstep::sim
