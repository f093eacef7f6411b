// Decides which files the target `stream` can make, and by which number each goes.
#pragma once

#include <array>

namespace lockstep::fuzz {

inline constexpr std::array stream_dirs{"weight_v000001", "weight_v000002", "weight_v000003",
                                        "step_4"};

inline constexpr std::array stream_names{
    "weight_v000001/model.safetensors.index.json",
    "weight_v000001/model-00000-of-00001.safetensors",
    "weight_v000002/model.safetensors.index.json",
    "weight_v000002/model-00000-of-00001.safetensors",
    "weight_v000003/model.safetensors.index.json",
    "weight_v000003/model-00000-of-00001.safetensors",
    "weight_v000001/model.safetensors",
    "weight_v000002/model.safetensors",
    "weight_v000001/model-00001-of-00002.safetensors",
    "step_4/model.safetensors",
    "weight_v000004/model.safetensors",
    "weight_v18446744073709551616/model.safetensors",
};

}  // namespace lockstep::fuzz
