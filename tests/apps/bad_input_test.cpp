#include <unistd.h>

#include "apps/program.hpp"

namespace lockstep::test {

namespace {

/// A base and a stream of one full version, to be spoiled, and an --out that must stay away.
class scene {
 public:
  scene() {
    make_checkpoint(base(), small_model(1));
    make_checkpoint(stream() / "v1", small_model(2));
  }
  fs::path base() const { return dir_ / "base"; }
  fs::path stream() const { return dir_ / "stream"; }
  fs::path out() const { return dir_ / "out"; }
  fs::path base_file() const { return base() / "model.safetensors"; }

  /// Refused in one line, and nothing was written.
  void check(const std::vector<std::string>& parts, const arguments& more = {}) const {
    arguments all{"--out", out().string(), "--json"};
    all.insert(all.end(), more.begin(), more.end());
    const auto run = replay(base(), stream(), all);
    check_refusal(run, parts);
    CHECK(run.out.empty());
    CHECK_FALSE(fs::exists(out()));
  }

 private:
  temp_dir dir_;
};

std::string entry(const std::string& name, const std::string& rest) {
  return "\"" + name + "\":{" + rest + "}";
}

}  // namespace

TEST_CASE("the scene of the tests below is good but for what they spoil") {
  const scene s;
  passed(replay(s.base(), s.stream(), {"--json", "--out", s.out().string()}));
  check_written(s.out(), 4, small_model(2));
}

TEST_CASE("a base that is not there, or is no checkpoint, is refused") {
  const scene s;
  SECTION("missing") {
    fs::remove_all(s.base());
    s.check({"base"});
  }
  SECTION("empty directory") {
    fs::remove(s.base_file());
    s.check({"base", "model.safetensors"});
  }
  SECTION("a directory where the file should be") {
    fs::remove(s.base_file());
    fs::create_directories(s.base_file());
    s.check({"base/model.safetensors", "not a regular file"});
  }
  SECTION("an index without its shard") {
    put(s.base() / "model.safetensors.index.json", R"({"weight_map":{"bias":"a.safetensors"}})");
    fs::remove(s.base_file());
    s.check({"base/a.safetensors"});
  }
  SECTION("no tensors") {
    put(s.base_file(), with_header("{}"));
    s.check({"base", "holds no tensor"});
  }
  SECTION("a delta") {
    fs::remove_all(s.base());
    fs::copy(published_dir(tiny_rl / "stream", 1), s.base(), fs::copy_options::recursive);
    s.check({"base/model.safetensors.index.json", "delta"});
  }
  SECTION("a name with a line break") {
    const auto run = replay(s.base() / "two\nlines", s.stream());
    check_refusal(run, {"two\\x0alines"});
  }
}

TEST_CASE("hostile and damaged files are refused by name, wherever they stand") {
  const auto in_stream = GENERATE(false, true);
  const scene s;
  const auto file = in_stream ? s.stream() / "v1" / "model.safetensors" : s.base_file();
  const std::string name = in_stream ? "v1/model.safetensors" : "base/model.safetensors";
  const auto good = get(file);
  const auto bias = entry("bias", R"("dtype":"F32","shape":[7],"data_offsets":[0,28])");
  SECTION("empty") {
    put(file, "");
    s.check({name});
  }
  SECTION("cut in the header") {
    put(file, good.substr(0, 40));
    s.check({name});
  }
  SECTION("cut in the data") {
    put(file, good.substr(0, good.size() - 1));
    s.check({name, "tensor '"});
  }
  SECTION("a byte too many") {
    put(file, good + 'x');
    s.check({name, "after its last tensor"});
  }
  SECTION("a header of 100 MB that is not there") {
    put(file, length_prefix(100'000'000) + "{}");
    s.check({name, "100000000"});
  }
  SECTION("a header above the limit that is there") {
    put(file, length_prefix(100'000'001) + "{");
    fs::resize_file(file, 8 + 100'000'001);
    s.check({name, "100000001"});
  }
  SECTION("a header of 2^64 - 1 bytes") {
    put(file, length_prefix(~std::uint64_t{0}) + "{}");
    s.check({name, "18446744073709551615"});
  }
  SECTION("no JSON") {
    put(file, with_header("{\"a\":"));
    s.check({name});
  }
  SECTION("deep nesting") {
    put(file, with_header("{\"a\":" + std::string(1'000'000, '[')));
    s.check({name});
  }
  SECTION("overlap") {
    put(file,
        with_header("{" + entry("a", R"("dtype":"U8","shape":[4],"data_offsets":[0,4])") + "," +
                        entry("b", R"("dtype":"U8","shape":[4],"data_offsets":[2,6])") + "}",
                    "123456"));
    s.check({name, "tensor 'b'"});
  }
  SECTION("hole") {
    put(file,
        with_header("{" + entry("a", R"("dtype":"U8","shape":[2],"data_offsets":[0,2])") + "," +
                        entry("b", R"("dtype":"U8","shape":[2],"data_offsets":[4,6])") + "}",
                    "123456"));
    s.check({name, "tensor 'b'", "hole"});
  }
  SECTION("past the end") {
    put(file, with_header("{" + bias + "}", std::string(27, 'x')));
    s.check({name, "tensor 'bias'", "past the end"});
  }
  SECTION("a size that its shape does not have") {
    put(file,
        with_header("{" + entry("bias", R"("dtype":"F32","shape":[8],"data_offsets":[0,28])") + "}",
                    std::string(28, 'x')));
    s.check({name, "tensor 'bias'"});
  }
  SECTION("a shape that overflows") {
    put(file, with_header("{" +
                              entry("bias", R"("dtype":"F32","shape":[4294967296,4294967296,4],)"
                                            R"("data_offsets":[0,28])") +
                              "}",
                          std::string(28, 'x')));
    s.check({name, "tensor 'bias'"});
  }
  SECTION("a name twice") {
    put(file, with_header("{" + bias + "," + bias + "}", std::string(28, 'x')));
    s.check({name, "tensor 'bias'", "twice"});
  }
  SECTION("an unknown dtype") {
    put(file,
        with_header("{" + entry("bias", R"("dtype":"F33","shape":[7],"data_offsets":[0,28])") + "}",
                    std::string(28, 'x')));
    s.check({name, "tensor 'bias'", "F33"});
  }
  SECTION("a name with a line break") {
    put(file,
        with_header("{" + entry("a\\nb", R"("dtype":"U8","shape":[2],"data_offsets":[0,1])") + "}",
                    "1"));
    s.check({name, "tensor 'a\\x0ab'"});
  }
}

TEST_CASE("a tensor that changes between versions is refused by file and name") {
  const scene s;
  const auto replace = [&](std::vector<tensor_spec> specs) {
    make_checkpoint(s.stream() / "v2", weight_buffer(layout(std::move(specs))));
  };
  const tensor_spec bias{"bias", dtype::f32, {7}}, head{"head", dtype::bf16, {16, 8}},
      trunk{"trunk", dtype::bf16, {32, 16}};
  SECTION("shape") {
    replace({bias, {"head", dtype::bf16, {8, 16}}, trunk});
    s.check({"v2", "'head'"});
  }
  SECTION("size") {
    replace({bias, {"head", dtype::bf16, {16, 9}}, trunk});
    s.check({"v2", "'head'"});
  }
  SECTION("dtype of the same width") {
    replace({bias, {"head", dtype::f16, {16, 8}}, trunk});
    s.check({"v2", "'head'"});
  }
  SECTION("gone") {
    replace({bias, head});
    s.check({"v2", "'trunk'"});
  }
  SECTION("new") {
    replace({bias, head, {"more", dtype::u8, {1}}, trunk});
    s.check({"v2", "'more'"});
  }
}

TEST_CASE("an output that cannot be written is refused before the work") {
  const scene s;
  const auto refused = [&](const std::string& out, const std::string& named) {
    const auto run = replay(s.base(), s.stream(), {"--json", "--out", out});
    check_refusal(run, {named});
    CHECK(run.out.empty());
  };
  SECTION("below a regular file") {
    refused((s.base_file() / "x" / "y").string(), "base/model.safetensors/x/y");
    CHECK(fs::is_regular_file(s.base_file()));
  }
  SECTION("a regular file") {
    put(s.out(), "mine");
    refused(s.out().string(), "out");
    CHECK(get(s.out()) == "mine");
  }
  SECTION("a place that takes no files") {
    refused("/proc/x", "/proc/x");
    refused("/proc", "/proc");
  }
  SECTION("nothing") {
    refused("", "--out");
  }
  SECTION("a name that is too long") {
    refused((s.out() / "a" / std::string(300, 'x')).string(), "xxx");
    CHECK_FALSE(fs::exists(s.out()));
  }
  SECTION("a file in the place of a receiver's directory") {
    put(s.out() / "receiver-2", "mine");
    refused(s.out().string(), "receiver-2");
    CHECK_FALSE(fs::exists(s.out() / "receiver-0"));
  }
  SECTION("a directory in the place of a receiver's file") {
    fs::create_directories(out_file(s.out(), 1));
    refused(s.out().string(), "receiver-1/model.safetensors");
    CHECK_FALSE(fs::exists(s.out() / "receiver-0"));
  }
  SECTION("a line break in its name") {
    refused((s.base_file() / "two\nlines").string(), "two\\x0alines");
  }
  SECTION("a directory without the right to write") {
    if (::geteuid() == 0) return;  // root may write anywhere
    fs::create_directories(s.out());
    fs::permissions(s.out(), fs::perms::owner_read | fs::perms::owner_exec);
    refused(s.out().string(), "out");
    fs::permissions(s.out(), fs::perms::owner_all);
  }
}

TEST_CASE("more copies than the machine has memory for are refused before the work") {
  const scene s;
  const std::uint64_t bytes = 1ull << 40;  // a sparse file: takes no room on disk
  const auto header = with_header(
      R"({"w":{"dtype":"U8","shape":[1099511627776],"data_offsets":[0,1099511627776]}})");
  for (const auto& file : {s.base_file(), s.stream() / "v1" / "model.safetensors"}) {
    put(file, header);
    std::error_code failure;
    fs::resize_file(file, header.size() + bytes, failure);
    if (failure) {
      WARN("no sparse files here: not checked");
      return;
    }
  }
  s.check({"memory", "1.10 TB"}, {"--receivers", "1"});
}

}  // namespace lockstep::test
