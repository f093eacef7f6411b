// The bytes are a safetensors file.
#include <string>
#include <utility>

#include "fuzz/fuzz.hpp"
#include "messages/errors.hpp"
#include "messages/layout.hpp"
#include "weights/safetensors.hpp"

namespace {

using namespace lockstep;

/// What an accepted header promises, looked at in another way than the reader's.
void check(const safetensors_header& header, std::size_t file_bytes) {
  std::uint64_t sum = 0;
  const std::uint64_t data_bytes = file_bytes - header.data_offset;
  for (std::size_t i = 0; i < header.tensors.size(); ++i) {
    const auto& t = header.tensors[i];
    fuzz::demand(t.begin <= t.end && t.end <= data_bytes, "tensors lie inside the file");
    fuzz::demand(bytes_of(t.spec) == t.end - t.begin, "tensors are as long as their shape says");
    fuzz::demand(i == 0 || header.tensors[i - 1].spec.name < t.spec.name, "names ascend");
    sum += t.end - t.begin;
  }
  // Inside and as long together as the data: no two can overlap if none leaves a hole.
  fuzz::demand(sum == data_bytes, "tensors cover the data");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = fuzz::input_of(data, size);
  try {
    safetensors_header header;
    {
      const fuzz::held_bytes bound(32 * size + (16 << 10));
      header = parse_safetensors(file, "f");
    }
    check(header, size);
    std::vector<tensor_spec> specs;
    for (auto& t : header.tensors) specs.push_back(std::move(t.spec));
    const layout shape(std::move(specs));
    fuzz::demand(shape.total_bytes() == size - header.data_offset, "the layout is as long");
  } catch (const error& e) {
    fuzz::demand(e.code() == errc::bad_input, "refused as bad input");
    fuzz::demand_message(e.what());
  }
  return 0;
}
