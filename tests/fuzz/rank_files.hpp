// Decides which files the target `rank` can make, and by which number each goes.
#pragma once

#include <array>

namespace lockstep::fuzz {

inline constexpr const char* rank_nonce = "0123456789abcdef";
inline constexpr std::array rank_names{
    "plan.json",
    "rank-00001-0123456789abcdef-t.json",
    "rank-00001-0123456789abcdef-t-00000.safetensors",
    "rank-00001-0123456789abcdef-t-00001.safetensors",
    "refusal.json",
};

}  // namespace lockstep::fuzz
