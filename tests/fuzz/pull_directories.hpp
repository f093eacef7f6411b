// Decides which directories the target `pull` serves. They need not be there.
#pragma once

#include <array>

namespace lockstep::fuzz {

inline constexpr std::array pull_sources{"/stream", "/other"};
inline constexpr std::array pull_checkpoints{"/host"};

}  // namespace lockstep::fuzz
