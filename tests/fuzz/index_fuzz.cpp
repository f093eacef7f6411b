// The bytes are a model.safetensors.index.json.
#include "fuzz/fuzz.hpp"
#include "messages/errors.hpp"
#include "weights/checkpoint_index.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace lockstep;
  try {
    checkpoint_index index;
    {
      const fuzz::held_bytes bound(32 * size + (16 << 10));
      index = parse_index(fuzz::input_of(data, size), "f");
    }
    std::size_t mapped = 0;
    for (const auto& [shard, tensors] : index.shards()) {
      fuzz::demand(std::filesystem::path(shard).filename() == shard, "a shard is a plain name");
      fuzz::demand(shard != "." && shard != "..", "a shard is a file");
      mapped += tensors.size();
    }
    fuzz::demand(mapped == index.weight_map.size(), "every tensor is in one shard");
  } catch (const error& e) {
    fuzz::demand(e.code() == errc::bad_input, "refused as bad input");
    fuzz::demand_message(e.what());
  }
  return 0;
}
