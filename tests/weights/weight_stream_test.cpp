#include "weights/weight_stream.hpp"

#include "test_files.hpp"
#include "weights/published.hpp"

using namespace lockstep;
using namespace lockstep::test;

namespace {

const layout shape({{"a", dtype::u8, {4}}, {"b", dtype::bf16, {2}}});

weight_buffer version(unsigned number) {
  weight_buffer weights(shape);
  weights.tensor(0)[0] = static_cast<std::byte>(number);
  weights.tensor(1)[number % 4] = std::byte{0x55};
  return weights;
}

void put_full(const fs::path& dir, unsigned number) {
  write_safetensors(dir / "model.safetensors", version(number));
}

void put_delta(const fs::path& stream, unsigned number, unsigned base) {
  const auto from = version(base);
  const auto to = version(number);
  publish_delta(stream, number, base, shape, reader_of(from), reader_of(to));
}

// Opens the stream, walks it, and compares every version's bytes.
std::vector<std::uint64_t> walk(const fs::path& dir) {
  std::vector<std::uint64_t> numbers;
  const auto stream = weight_stream::open(dir, shape);
  auto weights = version(0);
  for (std::size_t i = 0; i < stream.versions().size(); ++i) {
    stream.load(i, weights);
    numbers.push_back(stream.versions()[i].version);
    CHECK(contents(weights) == contents(version(static_cast<unsigned>(numbers.back()))));
  }
  return numbers;
}

using numbers = std::vector<std::uint64_t>;

}  // namespace

TEST_CASE("a series of checkpoints is ordered by number, not by name") {
  temp_dir dir;
  for (const auto* name : {"step-10", "step-9", "weight_v000011", "checkpoint-2", "3"}) {
    const std::string text = name;
    const auto digits = text.substr(text.find_last_not_of("0123456789") + 1);
    put_full(dir / name, static_cast<unsigned>(std::stoul(digits)));
  }
  put_full(dir / "step-0", 0);  // the base itself
  put(dir / "notes.txt", "");
  put(dir / "log-5", "a file");
  fs::create_directories(dir / "logs");
  fs::create_directories(dir / ".weight_sync7");
  CHECK(walk(dir.path()) == numbers{2, 3, 9, 10, 11});
  CHECK(weight_stream::open(dir.path(), shape).versions()[0].dir == dir / "checkpoint-2");
}

TEST_CASE("deltas chain from the base, across missing numbers and full versions") {
  temp_dir dir;
  put_delta(dir.path(), 1, 0);
  put_delta(dir.path(), 3, 1);
  const auto seven = version(7);
  publish_full(dir.path(), 7, shape, reader_of(seven));
  put_delta(dir.path(), 8, 7);
  CHECK(walk(dir.path()) == numbers{1, 3, 7, 8});
  // A full version is one of all of its shards.
  put_full(dir / "stray", 7);
  fs::rename(dir / "stray" / "model.safetensors", dir / "weight_v000007" / "stray.safetensors");
  check_refused([&] { walk(dir.path()); }, errc::bad_input,
                {"stray.safetensors", "the index does not name this file"});
  fs::remove(dir / "weight_v000007" / "stray.safetensors");
  const auto stream = weight_stream::open(dir.path(), shape);
  CHECK(stream.versions()[1].what == weight_stream::kind::delta);
  CHECK(stream.versions()[2].what == weight_stream::kind::full);
  // A full version needs nothing of what was there before.
  auto weights = version(200);
  stream.load(2, weights);
  CHECK(contents(weights) == contents(version(7)));
}

TEST_CASE("a broken chain is refused before anything is loaded") {
  const auto check = [](const temp_dir& dir, const char* name, const char* part) {
    check_refused([&] { weight_stream::open(dir.path(), shape); }, errc::wrong_base, {name, part});
  };
  temp_dir gap;
  put_delta(gap.path(), 1, 0);
  put_delta(gap.path(), 3, 2);
  check(gap, "weight_v000003", "a delta to version 2, but the version before it is 1");
  temp_dir start;
  put_delta(start.path(), 5, 4);
  check(start, "weight_v000005", "a delta to version 4, but the version before it is 0");
  temp_dir reset;
  const auto two = version(2);
  put_delta(reset.path(), 1, 0);
  publish_full(reset.path(), 2, shape, reader_of(two));
  put_delta(reset.path(), 3, 1);
  check(reset, "weight_v000003", "a delta to version 1, but the version before it is 2");
}

TEST_CASE("a delta in another version's directory is refused") {
  temp_dir dir;
  put_delta(dir.path(), 1, 0);
  fs::rename(dir / "weight_v000001", dir / "weight_v000002");
  check_refused([&] { weight_stream::open(dir.path(), shape); }, errc::bad_input,
                {"weight_v000002", "says it is version 1, not 2"});
}

TEST_CASE("no version, two with one number or one beyond counting are refused") {
  temp_dir dir;
  const auto open = [&] { weight_stream::open(dir.path(), shape); };
  check_refused(open, errc::bad_input, {dir.path().string(), "holds no version"});
  put_full(dir / "step-0", 0);
  check_refused(open, errc::bad_input, {"holds no version"});
  put_full(dir / "step-7", 7);
  CHECK_NOTHROW(open());
  put_full(dir / "weight_v000007", 7);
  check_refused(open, errc::bad_input, {"weight_v000007", "same number as step-7"});
  fs::remove_all(dir / "weight_v000007");
  fs::create_directory(dir / "step-18446744073709551616");
  check_refused(open, errc::bad_input, {"step-18446744073709551616", "too large"});
  fs::remove_all(dir / "step-18446744073709551616");
  fs::create_symlink("gone", dir / "step-9");
  check_refused(open, errc::bad_input, {"step-9"});
  check_refused([&] { weight_stream::open(dir / "absent", shape); }, errc::bad_input,
                {"absent", "cannot be listed"});
}

TEST_CASE("a tensor whose shape changed between versions is named") {
  temp_dir dir;
  put_full(dir / "step-1", 1);
  const weight_buffer other(layout({{"a", dtype::u8, {2, 2}}, {"b", dtype::bf16, {2}}}));
  write_safetensors(dir / "step-2/model.safetensors", other);
  const auto open = [&] { weight_stream::open(dir.path(), shape); };
  check_refused(open, errc::wrong_layout,
                {"step-2/model.safetensors", "tensor 'a' is U8 [2, 2], but the base has U8 [4]"});
  fs::remove_all(dir / "step-2");
  fs::create_directory(dir / "step-2");
  check_refused(open, errc::bad_input, {"step-2", "holds neither"});
}

TEST_CASE("without its index a published version is not there yet") {
  temp_dir dir;
  const auto open = [&] { weight_stream::open(dir.path(), shape); };
  const auto at = dir / "weight_v000001";
  const auto check = [&](const std::vector<std::string>& parts) {
    check_refused(open, errc::bad_input, {at.string(), "not published yet"});
    check_refused(open, errc::bad_input, parts);
  };
  fs::create_directory(at);
  check({"no checkpoint in a single model.safetensors"});

  // Compressed shards that look like a checkpoint's.
  put_delta(dir / "other", 1, 0);
  const auto shard = dir / "other/weight_v000001/model-00000-of-00001.safetensors";
  fs::copy_file(shard, at / "model-00000-of-00001.safetensors");
  check({"no checkpoint in a single model.safetensors"});
  fs::rename(at / "model-00000-of-00001.safetensors", at / "model.safetensors");
  check({"tensor 'a' of its model.safetensors is not as in the base"});

  // A compressed part as long as the tensor: only the checksum tells it from weights.
  put(at / "model.safetensors",
      with_header(R"({"__metadata__":{"a":"00000001"},)"
                  R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                  R"("b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]}})",
                  "12345678"));
  check({"part of a delta", "checksum for tensor 'a'"});

  // The whole checkpoint in one file, and nothing that could be a shard.
  fs::remove_all(at);
  put_full(at, 1);
  put(at / "config.json", "{}");
  CHECK(walk(dir.path()) == numbers{1});
  put(at / "model-00001-of-00002.safetensors", with_header("{}"));
  check({"no checkpoint in a single model.safetensors"});
}

TEST_CASE("a lone file that lacks a tensor is no checkpoint of this model") {
  temp_dir dir;
  const weight_buffer part(layout({{"a", dtype::u8, {4}}}));
  write_safetensors(dir / "weight_v000001/model.safetensors", part);
  check_refused([&] { weight_stream::open(dir.path(), shape); }, errc::wrong_layout,
                {"weight_v000001", "lacks tensor 'b'"});
}

TEST_CASE("what was good when opened is checked again when loaded") {
  temp_dir dir;
  put_delta(dir.path(), 1, 0);
  put_full(dir / "step-2", 2);
  const auto stream = weight_stream::open(dir.path(), shape);
  auto weights = version(0);
  fs::remove(dir / "weight_v000001/model-00000-of-00001.safetensors");
  check_refused([&] { stream.load(0, weights); }, errc::bad_input, {"cannot be opened"});
  fs::remove_all(dir / "weight_v000001");
  put_delta(dir / "other", 1, 0);
  put_delta(dir / "other", 2, 1);
  fs::rename(dir / "other/weight_v000002", dir / "weight_v000001");
  check_refused([&] { stream.load(0, weights); }, errc::bad_input, {"says it is version 2"});
  write_safetensors(dir / "step-2/model.safetensors",
                    weight_buffer(layout({{"a", dtype::u8, {4}}})));
  check_refused([&] { stream.load(1, weights); }, errc::wrong_layout, {"lacks tensor 'b'"});
  CHECK(contents(weights) == contents(version(0)));

  weight_buffer other(layout({{"a", dtype::u8, {4}}}));
  check_refused([&] { stream.load(1, other); }, errc::wrong_layout, {"another layout"});
}
