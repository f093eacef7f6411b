#include "apps/program.hpp"

namespace lockstep::test {

namespace {

/// A copy of the example to be spoiled, and an --out that must stay away.
class scene {
 public:
  scene() { fs::copy(tiny_rl, dir_.path(), fs::copy_options::recursive); }
  fs::path base() const { return dir_ / "base"; }
  fs::path stream() const { return dir_ / "stream"; }
  fs::path out() const { return dir_ / "out"; }
  fs::path version(std::uint64_t v) const { return published_dir(stream(), v); }
  fs::path index(std::uint64_t v) const { return version(v) / "model.safetensors.index.json"; }
  fs::path shard(std::uint64_t v) const { return version(v) / "model-00000-of-00001.safetensors"; }

  /// Refused in one line, having synced `synced` versions and written nothing.
  void check(const std::vector<std::string>& parts, std::size_t synced = 0) const {
    const auto run = replay(base(), stream(), {"--json", "--out", out().string()});
    check_refusal(run, parts);
    CHECK(lines_of(run.out).size() == synced);
    CHECK_FALSE(fs::exists(out()));
  }

  void edit_index(std::uint64_t v, const std::function<void(json&)>& edit) const {
    auto content = json::parse(get(index(v)));
    edit(content);
    put(index(v), content.dump());
  }

 private:
  temp_dir dir_;
};

}  // namespace

TEST_CASE("a stream that is not there, or holds nothing, is refused") {
  const scene s;
  fs::remove_all(s.stream());
  SECTION("missing") {
    s.check({"stream"});
  }
  SECTION("empty") {
    fs::create_directories(s.stream());
    s.check({"stream", "holds no version"});
  }
  SECTION("a file") {
    put(s.stream(), "x");
    s.check({"stream"});
  }
  SECTION("only what is no version") {
    fs::create_directories(s.stream() / "notes");
    put(s.stream() / "weight_v000001", "a file");
    s.check({"stream", "holds no version"});
  }
}

TEST_CASE("a stream of another base is refused at its first version") {
  const scene s;
  auto other = in_memory(checkpoint::open(s.base()));
  SECTION("one bit of a tensor that version 1 changes") {
    const auto changed = published_delta::open(s.version(1), other.shape()).tensor(0);
    other.tensor(changed)[0] ^= std::byte{1};
    make_checkpoint(s.base(), other);
    s.check({"weight_v000001", "'" + other.shape()[changed].name + "'"});
  }
  SECTION("another model") {
    make_checkpoint(s.base(), small_model());
    s.check({"weight_v000001", "tensor '"});
  }
}

TEST_CASE("a version that is damaged in the midst of a stream ends the run there") {
  const scene s;
  SECTION("a byte of a payload") {
    auto bytes = get(s.shard(5));
    bytes[bytes.size() - 20] = static_cast<char>(bytes[bytes.size() - 20] ^ 0x10);
    put(s.shard(5), bytes);
    s.check({"weight_v000005/model-00000-of-00001.safetensors", "tensor '"}, 4);
  }
  SECTION("a shard of another version") {
    fs::copy_file(s.shard(4), s.shard(5), fs::copy_options::overwrite_existing);
    const auto run = replay(s.base(), s.stream(), {"--json", "--out", s.out().string()});
    check_refusal(run, {"weight_v000005/model-00000-of-00001.safetensors", "tensor '"});
    CHECK_FALSE(fs::exists(s.out()));
  }
}

TEST_CASE("what a stream lacks shows before the first sync") {
  const scene s;
  SECTION("a shard") {
    fs::remove(s.shard(7));
    s.check({"weight_v000007/model-00000-of-00001.safetensors"});
  }
  SECTION("an index") {
    fs::remove(s.index(7));
    s.check({"weight_v000007", "model.safetensors.index.json"});
  }
  SECTION("a version") {
    fs::remove_all(s.version(7));
    s.check({"weight_v000008", "version 7"});
  }
  SECTION("the end of a shard") {
    fs::resize_file(s.shard(7), fs::file_size(s.shard(7)) - 1);
    s.check({"weight_v000007/model-00000-of-00001.safetensors"});
  }
}

TEST_CASE("an index that says something else is refused before the first sync") {
  const scene s;
  const std::string name = "weight_v000003/model.safetensors.index.json";
  SECTION("another base") {
    s.edit_index(3, [](json& i) { i["metadata"]["base_version"] = "000001"; });
    s.check({"weight_v000003", "version 1"});
  }
  SECTION("another version") {
    s.edit_index(3, [](json& i) { i["metadata"]["version"] = "000004"; });
    s.check({name, "4"});
  }
  SECTION("no version") {
    s.edit_index(3, [](json& i) { i["metadata"].erase("version"); });
    s.check({name, "version"});
  }
  SECTION("a number that is none") {
    s.edit_index(3, [](json& i) { i["metadata"]["base_version"] = "two"; });
    s.check({name, "base_version"});
  }
  SECTION("an encoding that nobody knows") {
    s.edit_index(3, [](json& i) { i["metadata"]["delta_encoding"] = "magic"; });
    s.check({name, "magic"});
  }
  SECTION("a checksum that is not built in") {
    s.edit_index(3, [](json& i) { i["metadata"]["checksum_format"] = "blake3"; });
    s.check({name, "blake3"});
  }
  SECTION("a shard outside") {
    s.edit_index(3,
                 [](json& i) { i["weight_map"].begin().value() = "../../base/model.safetensors"; });
    s.check({name, "../../base/model.safetensors"});
  }
  SECTION("a tensor that the base does not have") {
    s.edit_index(3, [](json& i) { i["weight_map"]["no.such"] = i["weight_map"].begin().value(); });
    s.check({"weight_v000003", "'no.such'"});
  }
  SECTION("a tensor that the shard has and the index has not") {
    s.edit_index(3, [](json& i) { i["weight_map"].erase(i["weight_map"].begin()); });
    s.check({"weight_v000003/model-00000-of-00001.safetensors", "tensor '"});
  }
  SECTION("no JSON") {
    put(s.index(3), "{\"metadata\":\n\n");
    s.check({name});
  }
}

TEST_CASE("a name with a line break in a stream's path stays in one line") {
  const scene s;
  const auto odd = s.base().parent_path() / "odd\nstream";
  fs::rename(s.stream(), odd);
  fs::remove(published_dir(odd, 2) / "model-00000-of-00001.safetensors");
  check_refusal(replay(s.base(), odd), {"odd\\x0astream/weight_v000002"});
}

}  // namespace lockstep::test
