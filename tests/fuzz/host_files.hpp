// Decides which files the target `host` can make, and by which number each goes.
#pragma once

#include <array>

namespace lockstep::fuzz {

inline constexpr std::array host_names{
    "acks/host.json",
    "checkpoint/.weight_sync/state.json",
    "checkpoint/.weight_sync/lockstep.json",
    "checkpoint/.weight_sync/intent.json",
    "checkpoint/.weight_sync/redo.log",
    "checkpoint/.weight_sync/incoming/model.safetensors",
    "checkpoint/model.safetensors.index.json",
    "version/model.safetensors.index.json",
    "checkpoint/.weight_sync/incoming/config.json",
    "checkpoint/config.json/in-the-way",
};

}  // namespace lockstep::fuzz
