// Decides which files the target `follow` can make, by which number each goes, and what its bytes
// ask for.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace lockstep::fuzz {

/// One round: the byte of wishes, the byte of the version to reach (0: the newest), a byte of how
/// many files come, then for each a byte that chooses its name, two of its length, and its
/// contents.
inline constexpr std::size_t follow_rounds_max = 3;
inline constexpr std::size_t follow_round_bytes = 3;

/// What a round's first byte asks for.
enum follow_wish : unsigned {
  wish_based = 1,      ///< a host without a checkpoint may start from the base
  wish_rebuild = 2,    ///< a whole checkpoint, whatever the marker says
  wish_named = 4,      ///< it says what became of the version
  wish_verify = 8,     ///< what is there is compared
  wish_damaged = 16,   ///< somebody has changed a byte of the checkpoint meanwhile
  wish_unmarked = 32,  ///< and taken its marker away
  wish_stop = 64,      ///< it is told to stop while it works
  wish_new = 128,      ///< the host's disk is a new one
};

/// A name with this bit is that of a link; its first byte chooses where it leads.
inline constexpr unsigned follow_link = 0x80;
inline constexpr std::array follow_ends{"../outside",
                                        "../../outside/model.safetensors",
                                        "../weight_v000001/model.safetensors.index.json",
                                        "nowhere",
                                        "../../outside/model.safetensors.index.json",
                                        "../../outside/delta.safetensors"};

/// As the source of a host, and a marker that is not its own.
inline const std::vector<std::string>& follow_names() {
  static const auto all = [] {
    std::vector<std::string> names{"source/weight_v000001",
                                   "source/weight_v000002",
                                   "source/weight_v000001/config.json",
                                   "source/weight_v000002/model-00001-of-00002.safetensors",
                                   "source/.lockstep-ranks/plan.json",
                                   "source/.lockstep-scratch-1/model.safetensors",
                                   "source/acks/host.json",
                                   "checkpoint/.weight_sync/state.json",
                                   "checkpoint/.weight_sync/lockstep.json",
                                   "checkpoint/model.safetensors.index.json"};
    for (int v = 1; v <= 10; ++v) {
      const auto dir = "source/weight_v0000" + std::string(v < 10 ? "0" : "") + std::to_string(v);
      for (const char* file : {"model.safetensors.index.json", "model-00000-of-00001.safetensors",
                               "model.safetensors"})
        names.push_back(dir + "/" + file);
    }
    // What came later stands at the end: kept inputs go by number.
    names.insert(names.end(), {"checkpoint/.weight_sync", "source/weight_v000001/tokenizer.json",
                               "checkpoint/tokenizer.json/in-the-way"});
    return names;
  }();
  return all;
}

}  // namespace lockstep::fuzz
