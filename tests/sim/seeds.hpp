// Decides how many seeds a test of the simulator runs.
#pragma once

#include <cstdint>

namespace lockstep::sim {

// Fewer where every instruction is watched.
#if defined(NDEBUG) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
inline constexpr std::uint64_t many = 400;
#else
inline constexpr std::uint64_t many = 60;
#endif

}  // namespace lockstep::sim
