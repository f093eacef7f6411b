// Decides the seeds of `safetensors`, `index`, `part` and `stream`.
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "fuzz/seed_files.hpp"
#include "fuzz/stream_files.hpp"
#include "weights/checkpoint.hpp"
#include "weights/compressed.hpp"
#include "weights/published.hpp"
#include "weights/published_shards.hpp"
#include "weights/safetensors.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep::fuzz {

namespace fs = std::filesystem;
using nlohmann::json;
using bytes = std::vector<std::byte>;

namespace {

/// The header of a real checkpoint over no data: each tensor is cut down to nothing.
std::string without_data(const fs::path& file) {
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
  put(dir / "tiny-rl-without-data", without_data(example_data / "tiny-rl/base/model.safetensors"));
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

/// Headers that must be refused, each for one reason: what a search would take long to come upon.
void hostile_headers(const fs::path& dir) {
  const auto file = [&](const std::string& name, const std::string& header, std::size_t data) {
    std::string text;
    for (int i = 0; i < 8; ++i) text.push_back(static_cast<char>(header.size() >> (8 * i)));
    put(dir / name, text + header + std::string(data, 'x'));
  };
  const auto tensor = [](const std::string& name, const std::string& shape, const std::string& at) {
    return '"' + name + R"(":{"dtype":"U8","shape":)" + shape + R"(,"data_offsets":)" + at + '}';
  };
  file("hole", '{' + tensor("a", "[1]", "[0,1]") + ',' + tensor("b", "[1]", "[2,3]") + '}', 3);
  file("overlap", '{' + tensor("a", "[2]", "[0,2]") + ',' + tensor("b", "[2]", "[1,3]") + '}', 3);
  file("overlap-and-hole",
       '{' + tensor("a", "[2]", "[0,2]") + ',' + tensor("b", "[1]", "[1,2]") + '}', 3);
  file("same-name", '{' + tensor("a", "[1]", "[0,1]") + ',' + tensor("a", "[1]", "[1,2]") + '}', 2);
  file("inverted", '{' + tensor("a", "[0]", "[1,0]") + '}', 1);
  file("shape-overflows", '{' + tensor("a", "[4194305,4194305,211106198978564]", "[0,4]") + '}', 4);
  file("same-metadata", R"({"__metadata__":{"a":"b","a":"c"}})", 0);
  file("three-offsets", '{' + tensor("a", "[1]", "[0,1,2]") + '}', 1);
  std::string rank = "[1";
  for (int i = 0; i < 64; ++i) rank += ",1";
  file("rank-65", '{' + tensor("a", rank + ']', "[0,1]") + '}', 1);
  file("bytes-after", '{' + tensor("a", "[1]", "[0,1]") + '}', 2);
  file("empty-tensor-inside",
       '{' + tensor("a", "[2]", "[0,2]") + ',' + tensor("b", "[0]", "[1,1]") + '}', 2);
}

void index_seeds(const fs::path& dir) {
  for (const std::string format : {"adler32", "xxh3-128"})
    for (const std::string version : {"1", "3"})
      put(dir / (format + "-v" + version), get(test_data / "published" / format / "stream" /
                                               ("weight_v00000" + version) / index_json));
  for (const std::string name : {"../a", "a/b", ".", "a.safetensors/.."})
    put(dir / ("leads-to-" + std::to_string(name.size())),
        R"({"weight_map":{"t":")" + name + R"(.safetensors"}})");
  put(dir / "same-key", R"({"weight_map":{"t":"a.safetensors","t":"b.safetensors"}})");
  put(dir / "deep", R"({"metadata":{"a":[[[[]]]]},"weight_map":{}})");
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

/// A delta that changes every tensor: whole, and with the last of them damaged.
void add_published(const fs::path& dir, published_encoding encoding, const std::string& name) {
  const auto base = checkpoint::open(test_data / "published/adler32/base");
  weight_buffer target(base.shape());
  target.copy_from(base);
  for (std::size_t i = 0; i < target.shape().count(); ++i)
    if (!target.tensor(i).empty()) target.tensor(i).back() ^= std::byte{0x40};
  const auto scratch = dir / "scratch";
  publish_options options;
  options.encoding = encoding;
  publish_delta(scratch, 1, 0, base.shape(), reader_of(base), reader_of(std::as_const(target)),
                options);
  auto contents = get(scratch / "weight_v000001" / shard);
  std::string all;
  add_file(all, stream_names, "weight_v000001/" + index_json,
           get(scratch / "weight_v000001" / index_json));
  auto damaged = all;
  add_file(all, stream_names, "weight_v000001/" + shard, contents);
  contents.back() = static_cast<char>(contents.back() ^ 1);
  add_file(damaged, stream_names, "weight_v000001/" + shard, contents);
  fs::remove_all(scratch);
  put(dir / name, all);
  put(dir / (name + "-damaged"), damaged);
}

void stream_seeds(const fs::path& dir) {
  for (const std::string format : {"adler32", "xxh3-128"}) {
    const auto from = test_data / "published" / format / "stream";
    std::string all;
    for (const std::string version : {"weight_v000001/", "weight_v000002/", "weight_v000003/"}) {
      add_file(all, stream_names, version + index_json, get(from / (version + index_json)));
      if (fs::exists(from / (version + shard)))
        add_file(all, stream_names, version + shard, get(from / (version + shard)));
    }
    put(dir / ("published-" + format), all);
  }
  const auto base = get(test_data / "published/adler32/base/model.safetensors");
  std::string full;
  add_file(full, stream_names, "weight_v000001/model.safetensors", base);
  add_file(full, stream_names, "step_4/model.safetensors", base);
  put(dir / "checkpoints", full);
  add_published(dir, published_encoding::xored, "every-tensor-xor");
  add_published(dir, published_encoding::overwrite, "every-tensor-overwrite");
  add_published(dir, published_encoding::coded, "every-tensor-coded");
}

json header_of(const std::string& model) {
  std::uint64_t length = 0;
  std::memcpy(&length, model.data(), sizeof length);
  return json::parse(model.substr(8, length));
}

void rare_stream_seeds(const fs::path& dir) {
  const auto base = base_model();
  const auto published = test_data / "published/adler32/stream/weight_v000001";
  const auto index = get(published / index_json);
  const auto part = get(published / shard);
  const std::string v1 = "weight_v000001/";
  const std::string second = "model-00001-of-00002.safetensors";
  put_files(dir / "number-too-large", stream_names,
            {{"weight_v18446744073709551616/model.safetensors", base}});
  put_files(dir / "number-twice", stream_names,
            {{"step_4/model.safetensors", base}, {"weight_v000004/model.safetensors", base}});
  auto summed = header_of(base);
  summed["__metadata__"]["model.norm.weight"] = "0badcafe";
  put_files(dir / "part-without-index", stream_names,
            {{v1 + "model.safetensors", safetensors_of(summed, 80)}});
  put_files(dir / "stray-shard", stream_names,
            {{v1 + index_json, index}, {v1 + shard, part}, {v1 + second, base}});
  auto typed = header_of(part);
  for (auto& [name, tensor] : typed.items())
    if (name != "__metadata__") tensor["dtype"] = "I8";
  put_files(dir / "part-of-i8", stream_names,
            {{v1 + index_json, index},
             {v1 + shard, safetensors_of(
                              typed, part.size() - 8 - [&] {
                                std::uint64_t length = 0;
                                std::memcpy(&length, part.data(), sizeof length);
                                return static_cast<std::size_t>(length);
                              }())}});
  put_files(dir / "ranks-that-agree", stream_names, {{v1 + shard, base}, {v1 + second, base}});
  auto other = base;
  other.back() = static_cast<char>(other.back() ^ 1);
  put_files(dir / "ranks-that-differ", stream_names, {{v1 + shard, base}, {v1 + second, other}});
  auto more = header_of(base);
  more["z"] = {{"dtype", "U8"}, {"shape", {1}}, {"data_offsets", {80, 81}}};
  put_files(dir / "tensor-too-many", stream_names,
            {{"step_4/model.safetensors", safetensors_of(more, 81)}});
  const json byte{{"dtype", "U8"}, {"shape", {1}}, {"data_offsets", {0, 1}}};
  put_files(dir / "tensor-missing", stream_names,
            {{"step_4/model.safetensors", safetensors_of({{"z", byte}}, 1)}});
  // Of what ranks leave: no tensor in a file, and no file; what an index does not name.
  put_files(dir / "rank-without-tensors", stream_names,
            {{v1 + shard, safetensors_of(json::object(), 0)}});
  put_files(dir / "index-of-nothing", stream_names, {{v1 + index_json, R"({"weight_map":{}})"}});
  json map;
  const auto header = header_of(base);
  for (const auto& [name, tensor] : header.items())
    if (name != "__metadata__") map[name] = shard;
  put_files(dir / "single-file-beside-an-index", stream_names,
            {{v1 + index_json, json{{"weight_map", map}}.dump()},
             {v1 + shard, base},
             {v1 + "model.safetensors", base}});
}

}  // namespace

void put_file_seeds(const fs::path& dir) {
  safetensors_seeds(dir / "safetensors");
  hostile_headers(dir / "safetensors");
  index_seeds(dir / "index");
  part_seeds(dir / "part");
  stream_seeds(dir / "stream");
  rare_stream_seeds(dir / "stream");
}

}  // namespace lockstep::fuzz
