#include "weights/checkpoint.hpp"

#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>

#include "test_files.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/safetensors.hpp"

using namespace lockstep;
using namespace lockstep::test;

namespace {

// One U8 tensor that fills a file of its own.
std::string lone(const std::string& name, const std::string& data) {
  const auto size = std::to_string(data.size());
  return with_header("{\"" + name + "\":{\"dtype\":\"U8\",\"shape\":[" + size +
                         "],\"data_offsets\":[0," + size + "]}}",
                     data);
}

const std::string index_file = "model.safetensors.index.json";

// Tensors a (aa) and b (bbb) in a shard each, and an index of this text.
void put_sharded(const fs::path& dir, const std::string& index) {
  put(dir / "one.safetensors", lone("a", "aa"));
  put(dir / "two.safetensors", lone("b", "bbb"));
  put(dir / index_file, index);
}

const std::string good_map = R"("weight_map":{"a":"one.safetensors","b":"two.safetensors"})";

void check_bad_index(const std::string& index, const std::vector<std::string>& parts) {
  temp_dir dir;
  put_sharded(dir.path(), index);
  check_refused([&] { checkpoint::open(dir.path()); }, errc::bad_input, {index_file});
  check_refused([&] { checkpoint::open(dir.path()); }, errc::bad_input, parts);
}

}  // namespace

TEST_CASE("a checkpoint is a file, a directory with one file, or shards with an index") {
  temp_dir dir;
  put(dir / "single/model.safetensors", lone("a", "aa"));
  for (const auto* path : {"single", "single/model.safetensors"}) {
    const auto c = checkpoint::open(dir / path);
    CHECK(c.path() == dir / path);
    CHECK(c.shape() == layout({{"a", dtype::u8, {2}}}));
    CHECK(text(c.tensor(0)) == "aa");
  }
  put_sharded(dir / "sharded", R"({"metadata":{"total_size":5,"n":{"m":[1]},"x":null},)" +
                                   good_map + R"(,"more":[true,1.5,-1]})");
  const auto sharded = checkpoint::open(dir / "sharded");
  const auto copy = sharded;
  CHECK(contents(copy) == std::vector<std::string>{"aa", "bbb"});
}

TEST_CASE("shards may be links, as in a hub cache, and are read through them") {
  temp_dir dir;
  put(dir / "blobs/123", lone("a", "aa"));
  fs::create_directory(dir / "snapshot");
  fs::create_symlink("../blobs/123", dir / "snapshot/model.safetensors");
  CHECK(text(checkpoint::open(dir / "snapshot").tensor(0)) == "aa");

  fs::create_directory(dir / "dangling");
  fs::create_symlink("gone", dir / "dangling/model.safetensors");
  check_refused([&] { checkpoint::open(dir / "dangling"); }, errc::bad_input, {"cannot be opened"});
  // A dangling index is a broken checkpoint, not one without an index.
  put(dir / "broken/model.safetensors", lone("a", "aa"));
  fs::create_symlink("gone", dir / "broken" / index_file);
  check_refused([&] { checkpoint::open(dir / "broken"); }, errc::bad_input,
                {index_file, "cannot be opened"});
}

TEST_CASE("a rank may have no tensor, but not no file", "[ranks]") {
  temp_dir dir;
  const auto tensors = [&] { return checkpoint::open_rank(dir.path()).shape().count(); };
  check_refused(tensors, errc::bad_input, {dir.path().string(), "holds no file"});
  put(dir / "rank-0.safetensors", with_header("{}"));
  CHECK(tensors() == 0);
  check_refused([&] { checkpoint::open_ranks(dir.path()); }, errc::bad_input, {"holds no tensor"});
  fs::remove(dir / "rank-0.safetensors");
  put(dir / index_name, R"({"weight_map":{}})");
  CHECK(tensors() == 0);
}

TEST_CASE("what holds no weights is refused") {
  temp_dir dir;
  check_refused([&] { checkpoint::open(dir.path()); }, errc::bad_input,
                {dir.path().string(), "holds neither"});
  put(dir / "model.safetensors", with_header("{}"));
  check_refused([&] { checkpoint::open(dir.path()); }, errc::bad_input, {"holds no tensor"});
}

TEST_CASE("an index and its shards agree on every tensor") {
  temp_dir dir;
  const auto open = [&] { checkpoint::open(dir.path()); };
  put_sharded(dir.path(), "{" + good_map + "}");
  CHECK_NOTHROW(open());

  fs::remove(dir / "two.safetensors");
  check_refused(open, errc::bad_input, {"two.safetensors", "cannot be opened"});
  put(dir / "two.safetensors", lone("c", "ccc"));
  check_refused(open, errc::bad_input, {"two.safetensors", "lacks tensor 'b'"});
  put(dir / "two.safetensors",
      with_header(R"({"b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                  R"("extra":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})"));
  check_refused(open, errc::bad_input, {"two.safetensors", "holds tensor 'extra'"});
  // The same tensor in two shards: mapped to one of them only.
  put(dir / "two.safetensors",
      with_header(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                  R"("b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})"));
  check_refused(open, errc::bad_input, {"two.safetensors", "holds tensor 'a'"});

  put_sharded(dir.path(), "{" + good_map + "}");
  put(dir / "model.safetensors", lone("a", "zz"));
  check_refused(open, errc::bad_input, {"model.safetensors", "beside an index"});
}

TEST_CASE("an index that is malformed or leads elsewhere is refused") {
  for (const auto* name : {"../one.safetensors", "/etc/one.safetensors", "sub/one.safetensors",
                           "..", "", "one.bin", "one.safetensors\\u0000.safetensors"})
    check_bad_index(R"({"weight_map":{"a":")" + std::string(name) + R"("}})",
                    {"tensor 'a'", "not the plain name"});
  for (const auto* value : {"1", "null", "{}", "[]", "true"})
    check_bad_index(R"({"weight_map":{"a":)" + std::string(value) + "}}",
                    {"tensor 'a' to something that is not a name"});
  for (const auto* value : {"1", "null", "[]", "\"x\""})
    check_bad_index(R"({"weight_map":)" + std::string(value) + "}", {"not an object"});
  check_bad_index("{}", {"no weight_map"});
  check_bad_index(R"({"metadata":{}})", {"no weight_map"});
  for (const auto* top : {"[]", "3", "\"x\"", "null"}) check_bad_index(top, {"unexpected"});
  check_bad_index("", {"not valid JSON"});
  check_bad_index("{" + good_map, {"not valid JSON"});
  check_bad_index(std::string("{") + good_map + "}" + '\0' + "x", {"NUL"});
  check_bad_index("{\"weight_map\":{\"\xff\":\"one.safetensors\"}}", {"not valid JSON"});
  check_bad_index("{" + good_map + "," + good_map + "}", {"two weight_map"});
  check_bad_index(R"({"metadata":{},"metadata":{},)" + good_map + "}", {"two metadata"});
  check_bad_index(R"({"weight_map":{"a":"one.safetensors","a":"two.safetensors"}})", {"'a' twice"});
  check_bad_index(R"({"metadata":{"k":1,"k":"x"},)" + good_map + "}", {"'k' twice"});
  check_bad_index(R"({"x":[[[[1]]]],)" + good_map + "}", {"more than 4 levels"});
  check_bad_index(R"({"x":)" + std::string(100'000, '['), {"more than 4 levels"});
  // The key alone makes it a delta, whatever its value.
  check_bad_index(R"({"metadata":{"delta_encoding":"xor"},)" + good_map + "}", {"a delta"});
  check_bad_index(R"({"metadata":{"delta_encoding":null},)" + good_map + "}", {"a delta"});
}

TEST_CASE("an index has limits") {
  temp_dir dir;
  put_sharded(dir.path(), "{" + good_map + "}");
  fs::resize_file(dir / index_file, (64u << 20) + 1);
  check_refused([&] { checkpoint::open(dir.path()); }, errc::bad_input, {"67108865", "limit"});

  put_sharded(dir.path(), R"({"metadata":{"x":"y"},)" + good_map + "}");
  file_limits limits;
  limits.entry_count_max = 3;
  CHECK(read_index(dir.path(), limits).weight_map.size() == 2);
  limits.entry_count_max = 2;
  check_refused([&] { read_index(dir.path(), limits); }, errc::bad_input, {"more than 2 entries"});
}

TEST_CASE("a checkpoint of another layout is told by file and tensor") {
  temp_dir dir;
  const auto file = (dir / "f.safetensors").string();
  const auto check = [&](const layout& expected, const std::vector<std::string>& parts) {
    put(file, lone("b", "bbb"));
    check_refused([&] { checkpoint::open(file).require(expected); }, errc::wrong_layout, {file});
    check_refused([&] { checkpoint::open(file).require(expected); }, errc::wrong_layout, parts);
  };
  check(layout({{"b", dtype::u8, {3, 1}}}), {"tensor 'b' is U8 [3], but the base has U8 [3, 1]"});
  check(layout({{"b", dtype::i8, {3}}}), {"tensor 'b' is U8 [3], but the base has I8 [3]"});
  check(layout({{"a", dtype::u8, {3}}, {"b", dtype::u8, {3}}}), {"lacks tensor 'a'"});
  check(layout({{"b", dtype::u8, {3}}, {"c", dtype::u8, {3}}}), {"lacks tensor 'c'"});
  check(layout(std::vector<tensor_spec>{}), {"tensor 'b' is not in the base"});
  check(layout({{"c", dtype::u8, {3}}}), {"tensor 'b' is not in the base"});
  CHECK_NOTHROW(checkpoint::open(file).require(layout({{"b", dtype::u8, {3}}})));
}

TEST_CASE("a written checkpoint is aligned, padded and replaces the old one whole") {
  temp_dir dir;
  const auto file = dir / "deep/er/model.safetensors";
  weight_buffer weights(layout({{"a", dtype::u8, {3}}, {"b\n\"é", dtype::f64, {1}}}));
  weights.tensor(0)[2] = std::byte{5};
  put(file, "old");
  put(file.string() + ".tmp", "left over by an attempt that died");
  write_safetensors(file, weights);
  CHECK_FALSE(fs::exists(file.string() + ".tmp"));
  const auto read = checkpoint::open(file);
  CHECK(read.shape() == weights.shape());
  CHECK(contents(read) == contents(weights));
  // The wide tensor comes first, so it is aligned although the other has three bytes.
  CHECK(reinterpret_cast<std::uintptr_t>(read.tensor(1).data()) % 8 == 0);
  const auto header = parse_safetensors(bytes(get(file)), file);
  CHECK(header.data_offset % 8 == 0);
  CHECK(header.metadata == checkpoint_metadata);
}

TEST_CASE("what the format cannot hold is not written") {
  temp_dir dir;
  const auto check = [&](const std::string& name, const std::vector<std::string>& parts) {
    const weight_buffer weights(layout({{name, dtype::u8, {1}}}));
    check_refused([&] { write_safetensors(dir / "f", weights); }, errc::wrong_layout, parts);
    CHECK(fs::is_empty(dir.path()));
  };
  check("__metadata__", {"'__metadata__'"});
  check(std::string(tensor_name_bytes_max + 1, 'x'), {"cannot hold"});
  check("\xff", {"UTF-8"});
  check_refused(
      [&] {
        write_safetensors(dir / "f", layout({{"a", dtype::u8, {2}}}),
                          [](std::size_t) { return std::span<const std::byte>(); });
      },
      errc::wrong_layout, {"'a'", "another length"});
  CHECK(fs::is_empty(dir.path()));
}

TEST_CASE("a directory is made with all that leads to it") {
  temp_dir dir;
  for (const auto* name : {"a/b/c", "a/b/d/", "a", "a/b/../e", "a//f/./g"}) {
    make_directories(dir / name);
    CHECK(fs::is_directory(dir / name));
    make_directories(dir / name);
  }
  make_directories(dir.path());
  make_directories("/");
  fs::create_directory_symlink(dir / "a", dir / "link");
  make_directories(dir / "link");
  make_directories(dir / "link/h");
  CHECK(fs::is_directory(dir / "a/h"));

  put(dir / "file", "x");
  fs::create_symlink(dir / "nowhere", dir / "dangling");
  for (const auto* name : {"file", "file/a/b", "dangling", "dangling/a"}) {
    INFO(name);
    check_refused([&] { make_directories(dir / name); }, errc::unwritable, {"cannot be made"});
  }
  CHECK(get(dir / "file") == "x");
  CHECK_FALSE(fs::exists(dir / "nowhere"));
}

TEST_CASE("an output that cannot be written is named, and what stood there stays") {
  temp_dir dir;
  const weight_buffer weights(layout({{"a", dtype::u8, {4096}}}));
  put(dir / "file", "x");
  const auto below = dir / "file/model.safetensors";
  check_refused([&] { write_safetensors(below, weights); }, errc::unwritable,
                {(dir / "file").string(), "cannot be made", "Not a directory"});

  fs::create_directories(dir / "target/full");
  check_refused([&] { write_safetensors(dir / "target", weights); }, errc::unwritable,
                {"target", "renamed"});
  CHECK_FALSE(fs::exists(dir / "target.tmp"));

  fs::create_symlink(dir / "elsewhere", dir / "link.tmp");
  // Leftovers where the temporary goes: never written through, never waited for.
  REQUIRE(::mkfifo((dir / "fifo.tmp").c_str(), 0600) == 0);
  for (const auto* name : {"link", "fifo"}) {
    write_safetensors(dir / name, weights);
    CHECK(checkpoint::open(dir / name).shape() == weights.shape());
    CHECK_FALSE(fs::exists(fs::symlink_status(dir / (std::string(name) + ".tmp"))));
  }
  CHECK_FALSE(fs::exists(dir / "elsewhere"));

  // A file system that is full half-way.
  put(dir / "kept", "old");
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{1000, before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  std::optional<error> thrown;
  try {
    write_safetensors(dir / "kept", weights);
  } catch (const error& e) {
    thrown = e;
  }
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);
  REQUIRE(thrown);
  CHECK(thrown->code() == errc::unwritable);
  CHECK_THAT(thrown->what(), Catch::Matchers::Contains("kept: cannot be written"));
  CHECK(get(dir / "kept") == "old");
  CHECK_FALSE(fs::exists(dir / "kept.tmp"));
}
