// Decides which files the target `proof` can make, and by which number each goes.
#pragma once

#include <array>

namespace lockstep::fuzz {

inline constexpr const char* proof_nonce = "0123456789abcdef";
inline constexpr std::array proof_names{
    "order-00001-0123456789abcdef.json",
    "share-00001-0123456789abcdef-t.json",
    "model.safetensors.index.json",
};

}  // namespace lockstep::fuzz
