// fuzz_seeds DIR: makes the seeds in DIR/<target> anew, from tests/data and examples/data.
#include <zstd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "config/settings_loader.hpp"
#include "fuzz/frame_tensors.hpp"
#include "fuzz/stream_files.hpp"
#include "weights/checkpoint.hpp"
#include "weights/compressed.hpp"
#include "weights/published.hpp"
#include "weights/safetensors.hpp"

namespace {

using namespace lockstep;
namespace fs = std::filesystem;
using fuzz::bytes;

const fs::path test_data = LOCKSTEP_TEST_DATA;
const fs::path example_data = LOCKSTEP_EXAMPLE_DATA;
const std::string index_json = "model.safetensors.index.json";
const std::string shard = "model-00000-of-00001.safetensors";

std::string get(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  fuzz::demand(in.good(), file.c_str());
  return {std::istreambuf_iterator<char>(in), {}};
}

void put(const fs::path& file, const std::string& text) {
  fs::create_directories(file.parent_path());
  std::ofstream out(file, std::ios::binary | std::ios::trunc);
  out << text;
  fuzz::demand(out.good(), file.c_str());
}

std::string text_of(const bytes& b) {
  return {reinterpret_cast<const char*>(b.data()), b.size()};
}

/// The header of a real checkpoint over no data: each tensor is cut down to nothing.
std::string header_of(const fs::path& file) {
  auto text = get(file);
  std::size_t length = 0;
  for (std::size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(text[i]);
  return text.substr(0, 8 + length);
}

void safetensors_seeds(const fs::path& dir) {
  for (const std::string format : {"adler32", "xxh3-128"}) {
    const auto from = test_data / "published" / format;
    put(dir / ("base-" + format), get(from / "base/model.safetensors"));
    put(dir / ("delta-" + format), get(from / "stream/weight_v000001" / shard));
  }
  put(dir / "tiny-rl-without-data", header_of(example_data / "tiny-rl/base/model.safetensors"));
  // One tensor of every dtype.
  std::vector<tensor_spec> specs;
  for (int i = 0; i <= static_cast<int>(dtype::last_); ++i)
    specs.push_back({"t" + std::to_string(i), static_cast<dtype>(i), {2, 4}});
  const layout shape(std::move(specs));
  const bytes zeros(64);
  const auto file = dir / "every-dtype";
  write_safetensors(file, shape,
                    [&](std::size_t i) { return std::span(zeros).first(shape.bytes(i)); });
}

void index_seeds(const fs::path& dir) {
  for (const std::string format : {"adler32", "xxh3-128"})
    for (const std::string version : {"1", "3"})
      put(dir / (format + "-v" + version), get(test_data / "published" / format / "stream" /
                                               ("weight_v00000" + version) / index_json));
  put(dir / "tiny-rl", get(example_data / "tiny-rl/stream/weight_v000006" / index_json));
}

void part_seeds(const fs::path& dir) {
  // The first byte: bit 0 overwrite, bits 1 and 2 the tensor's size, bit 3 to be compressed first.
  const auto seed = [&](const std::string& name, int mode, const bytes& rest) {
    put(dir / name, std::string(1, static_cast<char>(mode)) + text_of(rest));
  };
  bytes sparse(300);
  sparse[7] = std::byte{1};
  sparse[299] = std::byte{0x80};
  seed("xor", 4, compress(sparse));
  seed("xor-of-nothing", 0, compress({}));
  seed("xor-to-compress", 4 | 8, sparse);
  seed("xor-large", 6, compress(bytes(70'000)));
  const bytes changes{std::byte{2},
                      {},
                      {},
                      {},
                      std::byte{3},
                      {},
                      {},
                      {},
                      std::byte{9},
                      {},
                      {},
                      {},
                      std::byte{0x11},
                      std::byte{0x22}};
  seed("overwrite", 1 | 4, compress(changes));
  seed("overwrite-to-compress", 1 | 4 | 8, changes);
  seed("overwrite-nothing", 1 | 2 | 8, bytes(4));
}

void add_file(std::string& out, const std::string& name, const std::string& contents) {
  const auto at = std::ranges::find(fuzz::stream_names, name);
  fuzz::demand(at != fuzz::stream_names.end() && contents.size() < (1 << 16), name.c_str());
  out.push_back(static_cast<char>(at - fuzz::stream_names.begin()));
  out.push_back(static_cast<char>(contents.size()));
  out.push_back(static_cast<char>(contents.size() >> 8));
  out += contents;
}

void stream_seeds(const fs::path& dir) {
  for (const std::string format : {"adler32", "xxh3-128"}) {
    const auto from = test_data / "published" / format / "stream";
    std::string all;
    for (const std::string version : {"weight_v000001/", "weight_v000002/", "weight_v000003/"}) {
      add_file(all, version + index_json, get(from / (version + index_json)));
      if (fs::exists(from / (version + shard)))
        add_file(all, version + shard, get(from / (version + shard)));
    }
    put(dir / ("published-" + format), all);
  }
  const auto base = get(test_data / "published/adler32/base/model.safetensors");
  std::string full;
  add_file(full, "weight_v000001/model.safetensors", base);
  add_file(full, "step_4/model.safetensors", base);
  put(dir / "checkpoints", full);
}

/// Frames that change `tensor` at `elements`.
void add_delta(bytes& out, const std::vector<bytes>& base, std::uint32_t tensor,
               const std::vector<std::size_t>& elements) {
  const auto [size, unit] = fuzz::tensor_shapes[tensor];
  auto target = base[tensor];
  for (const auto e : elements) target[e * unit] ^= std::byte{0x5a};
  for (std::size_t at = 0; at < size; at += kernels::frame_span_bytes_max)
    kernels::encode_delta(tensor, {{base[tensor].data(), size}, unit},
                          {{target.data(), size}, unit}, at, out);
}

void frame_seeds(const fs::path& frames, const fs::path& buckets) {
  const auto base = fuzz::make_tensors();
  const std::vector<
      std::pair<std::string, std::vector<std::pair<std::uint32_t, std::vector<std::size_t>>>>>
      all{{"unit-2", {{0, {2, 5}}}},
          {"unit-1-with-escape", {{1, {0, 1, 65'537, 70'000}}}},
          {"unit-4", {{2, {0, 15}}}},
          {"unit-8", {{3, {1, 2, 9}}}},
          {"first-range", {{4, {0, 131'071, 262'143}}}},
          {"last-range", {{4, {262'144, 262'153}}}},
          {"several", {{0, {1}}, {1, {70'000}}, {2, {3}}, {3, {0}}, {4, {5, 262'150}}}}};
  for (const auto& [name, deltas] : all) {
    bytes out;
    for (const auto& [tensor, elements] : deltas) add_delta(out, base, tensor, elements);
    put(frames / name, text_of(out));
    out.push_back(std::byte{2});
    put(buckets / name, text_of(out));
  }
  bytes full;
  for (std::uint32_t t = 0; t < 4; t += 2)
    kernels::encode_full(t, {{base[t].data(), base[t].size()}, fuzz::tensor_shapes[t].unit}, 0,
                         full);
  put(frames / "full", text_of(full));
  full.push_back(std::byte{1});
  put(buckets / "full", text_of(full));
}

void settings_seeds(const fs::path& dir) {
  settings_loader loader;
  const std::string defaults = settings_toml(loader.effective());
  put(dir / "defaults", defaults);
  std::string overrides(1, '\0');
  std::string variables(1, '\0');
  for (const auto& entry : loader.effective()) {
    overrides += std::string(entry.key) + "=" + entry.value + "\n";
    variables += environment_name(entry.key) + "=" + entry.value + "\n";
  }
  put(dir / "overrides", overrides);
  put(dir / "variables", variables);
  put(dir / "all-three", "[sync]\nmembers_min = 2\n[log]\nlevel = \"info\"\n" +
                             overrides.substr(0, 60) + "\nLOCKSTEP_LOG_FILE=\xc3\xa9.log\n");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: fuzz_seeds DIR\n", stderr);
    return 2;
  }
  const fs::path dir = argv[1];
  safetensors_seeds(dir / "safetensors");
  index_seeds(dir / "index");
  part_seeds(dir / "part");
  stream_seeds(dir / "stream");
  frame_seeds(dir / "frame", dir / "bucket");
  settings_seeds(dir / "settings");
  return 0;
}
