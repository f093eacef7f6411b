#include <zlib.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "test_files.hpp"
#include "weights/compressed.hpp"
#include "weights/part_stream.hpp"
#include "weights/published.hpp"

using namespace lockstep;
using namespace lockstep::test;

namespace {

const layout two({{"a", dtype::u8, {8}}, {"b", dtype::bf16, {2}}});
const std::string shard_name = "model-00000-of-00001.safetensors";
const std::string index_file = "model.safetensors.index.json";
const std::string a_after = "ABCDEFGH";

// A delta that turns a from zeros into "ABCDEFGH", every part of which a test may spoil.
struct recipe {
  nlohmann::json metadata{{"version", "1"},
                          {"base_version", "0"},
                          {"delta_encoding", "xor"},
                          {"compression_format", "zstd"},
                          {"checksum_format", "adler32"}};
  nlohmann::json map{{"a", shard_name}};
  std::string name = "a";
  std::string payload = frame(a_after);
  nlohmann::json digests{{"a", published_digest(published_checksum::adler32, bytes(a_after))}};
  std::string type = "U8";

  void put_into(const fs::path& dir) const {
    const nlohmann::json header{
        {"__metadata__", digests},
        {name,
         {{"dtype", type}, {"shape", {payload.size()}}, {"data_offsets", {0, payload.size()}}}}};
    put(dir / shard_name, with_header(header.dump(), payload));
    put(dir / index_file, nlohmann::json{{"metadata", metadata}, {"weight_map", map}}.dump());
  }
};

recipe overwriting(const std::string& payload) {
  recipe r;
  r.metadata["delta_encoding"] = "overwrite";
  r.payload = frame(payload);
  return r;
}

std::string u32(std::uint32_t value) {
  return length_prefix(value).substr(0, 4);
}

// Opens and applies; whatever is refused, the weights must be as before.
void check_spoilt(const recipe& r, errc code, const std::vector<std::string>& parts) {
  temp_dir dir;
  r.put_into(dir.path());
  weight_buffer weights(two);
  const auto before = contents(weights);
  const auto load = [&] { published_delta::open(dir.path(), two).apply(weights); };
  check_refused(load, code, {dir.path().string()});
  check_refused(load, code, parts);
  CHECK(contents(weights) == before);
}

void check_payload(const std::string& payload, const std::string& part) {
  recipe r;
  r.payload = payload;
  check_spoilt(r, errc::bad_input, {shard_name, "tensor 'a'", part});
}

}  // namespace

TEST_CASE("an unspoilt delta is applied in either encoding") {
  for (const auto& r : {recipe(), overwriting(u32(8) + u32(0) + u32(1) + u32(2) + u32(3) + u32(4) +
                                              u32(5) + u32(6) + u32(7) + a_after)}) {
    temp_dir dir;
    r.put_into(dir.path());
    weight_buffer weights(two);
    published_delta::open(dir.path(), two).apply(weights);
    CHECK(text(weights.tensor(0)) == a_after);
  }
}

TEST_CASE("frames of any level, with or without content size and checksum, are read") {
  for (const int level : {-5, 1, 3, 19})
    for (const int flags : {0, 1, 2, 3}) {
      recipe r;
      std::string out(256, '\0');
      auto* context = ZSTD_createCCtx();
      ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level);
      ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, flags & 1);
      ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, flags >> 1);
      out.resize(ZSTD_compress2(context, out.data(), out.size(), a_after.data(), a_after.size()));
      ZSTD_freeCCtx(context);
      r.payload = out;
      temp_dir dir;
      r.put_into(dir.path());
      weight_buffer weights(two);
      published_delta::open(dir.path(), two).apply(weights);
      CHECK(text(weights.tensor(0)) == a_after);
    }
}

TEST_CASE("an index without a value that it needs, or with one unknown, is refused by name") {
  for (const auto* key : {"version", "base_version", "compression_format", "checksum_format"}) {
    recipe r;
    r.metadata.erase(key);
    check_spoilt(r, errc::bad_input, {index_file, "has no " + std::string(key)});
    r.metadata[key] = "gibberish";
    check_spoilt(r, errc::bad_input, {index_file, key, "'gibberish'"});
  }
  recipe r;
  r.metadata.erase("delta_encoding");
  check_spoilt(r, errc::bad_input, {index_file, "not a delta"});
  r.metadata["delta_encoding"] = "add";
  check_spoilt(r, errc::bad_input, {index_file, "delta_encoding 'add'"});
  r.metadata["delta_encoding"] = 3;
  check_spoilt(r, errc::bad_input, {index_file, "delta_encoding ''"});

  recipe blake;
  blake.metadata["checksum_format"] = "blake3";
  check_spoilt(blake, errc::bad_input, {index_file, "checksum_format 'blake3'"});
  for (const auto* version : {"", "-1", "+1", " 1", "1 ", "0x1", "1.0", "18446744073709551616"}) {
    recipe bad;
    bad.metadata["version"] = version;
    check_spoilt(bad, errc::bad_input, {index_file, "version '" + std::string(version) + "'"});
  }
}

TEST_CASE("a delta's tensors, shards and checksums fit together or it is refused") {
  recipe unknown;
  unknown.name = "x";
  unknown.map = {{"x", shard_name}};
  unknown.digests = {{"x", "00000001"}};
  check_spoilt(unknown, errc::wrong_layout, {index_file, "tensor 'x' is not in the base"});

  recipe missing_shard;
  missing_shard.map["b"] = "model-00001-of-00002.safetensors";
  check_spoilt(missing_shard, errc::bad_input,
               {"model-00001-of-00002.safetensors", "cannot be opened"});
  recipe missing_tensor;
  missing_tensor.map["b"] = shard_name;
  check_spoilt(missing_tensor, errc::bad_input, {shard_name, "lacks tensor 'b'"});
  recipe unmapped;
  unmapped.name = "b";
  check_spoilt(unmapped, errc::bad_input, {shard_name, "lacks tensor 'a'"});
  recipe stray;
  stray.map = nlohmann::json::object();
  check_spoilt(stray, errc::bad_input, {shard_name, "holds tensor 'a'", "does not name this file"});

  recipe no_digest;
  no_digest.digests = {{"b", "00000001"}};
  check_spoilt(no_digest, errc::bad_input, {shard_name, "tensor 'a' has no checksum"});
  for (const auto* digest : {"", "0000001", "000000001", "0000000g", "0000000A"}) {
    recipe r;
    r.digests["a"] = digest;
    check_spoilt(r, errc::bad_input, {shard_name, "tensor 'a'", "malformed checksum"});
  }
  recipe typed;
  typed.type = "I8";
  check_spoilt(typed, errc::bad_input, {shard_name, "tensor 'a'", "list of U8"});
}

TEST_CASE("a stray shard without tensors is nobody's loss") {
  temp_dir dir;
  recipe().put_into(dir.path());
  put(dir / "model-00001-of-00002.safetensors", with_header("{}"));
  CHECK_NOTHROW(published_delta::open(dir.path(), two));
}

TEST_CASE("a checksum that does not match changes nothing, not even tensors that do") {
  recipe r;
  r.digests["a"] = "00000001";
  check_spoilt(r, errc::bad_input, {shard_name, "tensor 'a'", "does not match its checksum"});

  // a is fine and comes first, b is damaged.
  temp_dir dir;
  weight_buffer base(two);
  auto target = base.clone();
  target.tensor(0)[0] = std::byte{1};
  target.tensor(1)[0] = std::byte{1};
  publish_delta(dir.path(), 1, 0, two, reader_of(base), reader_of(target));
  auto other = base.clone();
  other.tensor(1)[3] = std::byte{9};  // not the base
  const auto before = contents(other);
  const auto delta = published_delta::open(dir / "weight_v000001", two);
  check_refused([&] { delta.apply(other); }, errc::bad_input, {"tensor 'b'", "another base"});
  CHECK(contents(other) == before);

  weight_buffer narrower(layout({{"a", dtype::u8, {8}}}));
  check_refused([&] { delta.apply(narrower); }, errc::wrong_layout, {});
}

TEST_CASE("a payload is one whole frame that gives the tensor's length exactly") {
  for (const bool known : {true, false}) {
    check_payload(frame("ABCDEFG", known), "7 bytes, but must give 8");
    check_payload(frame("", known), "0 bytes, but must give 8");
  }
  check_payload(frame("ABCDEFGHI", true), "9 bytes, but must give 8");
  check_payload(frame("ABCDEFGHI", false), "cannot be decompressed to 8 bytes");
  const auto whole = frame(a_after);
  check_payload(whole + "x", "1 bytes after its zstd frame");
  check_payload(whole + frame(""), "bytes after its zstd frame");
  for (std::size_t length = 0; length < whole.size(); ++length)
    check_payload(whole.substr(0, length), "not one whole zstd frame");
  check_payload("ABCDEFGH", "not one whole zstd frame");
}

TEST_CASE("a frame is whole read by pieces where it is read at once") {
  const auto text = [](std::initializer_list<int> bytes) {
    std::string out;
    for (const int b : bytes) out.push_back(static_cast<char>(b));
    return out;
  };
  const std::string magic = text({0x28, 0xb5, 0x2f, 0xfd});
  const std::string two_raw = text({0x10, 0, 0}) + "AB";
  // With a window, or without; with a length of 0, 1, 4 and 8 bytes.
  for (const auto& head :
       {text({0x00, 0x0a}), text({0x20, 2}), text({0xa0, 2, 0, 0, 0}),
        text({0x80, 0x0a, 2, 0, 0, 0}), text({0xc0, 0x0a, 2, 0, 0, 0, 0, 0, 0, 0})})
    for (const bool sound : {true, false}) {
      // A block that is compressed has some bytes; one that is not may have none.
      const auto last = text({sound ? 1 : 5, 0, 0});
      const auto between = text({sound ? 0 : 4, 0, 0});
      for (const auto& blocks : {two_raw + last, between + two_raw + text({1, 0, 0})}) {
        const auto frame = magic + head + blocks;
        const auto bytes = std::as_bytes(std::span(frame));
        std::vector<std::byte> out(2);
        INFO("header of " << head.size() << " bytes, sound: " << sound);
        CHECK(decompress_exactly(bytes, out).empty() == sound);
        frame_reader reader(bytes, 20);
        auto problem = reader.read(out);
        if (problem.empty()) problem = reader.finish();
        CHECK(problem.empty() == sound);
      }
    }
}

TEST_CASE("a bomb is refused before it goes off") {
  const std::string zeros(64u << 20, '\0');
  check_payload(frame(zeros, true), "67108864 bytes, but must give 8");
  check_payload(frame(zeros, false), "cannot be decompressed to 8 bytes");
  for (const bool known : {true, false}) {
    auto r = overwriting("");
    r.payload = frame(zeros, known);
    check_spoilt(r, errc::bad_input, {"tensor 'a'", "more than 44 bytes"});
  }
  // A window of 2^31 bytes is not allocated: a hand-made header of a frame without content size,
  // then one raw last block of a byte. The fuzz target `part` counts what is.
  const std::string window("\x28\xb5\x2f\xfd\x00\xa8\x09\x00\x00x", 10);
  std::vector<std::byte> out;
  CHECK(decompress_up_to(bytes(window), 44, out).empty());
  CHECK(text(out) == "x");
}

TEST_CASE("how much room a frame needs is found out, whatever it announces") {
  for (const std::size_t size : {0u, 1u, 4096u, 4097u, 100'000u, 5'000'000u}) {
    const std::string zeros(size, '\0');
    for (const bool known : {true, false}) {
      std::vector<std::byte> out(3, std::byte{7});
      CHECK(decompress_up_to(bytes(frame(zeros, known)), size, out).empty());
      CHECK(text(out) == zeros);
      if (size == 0) continue;
      CHECK_THAT(decompress_up_to(bytes(frame(zeros, known)), size - 1, out),
                 Catch::Matchers::Contains("more than"));
    }
  }
}

TEST_CASE("an overwrite's changes are counted, ascending and inside the tensor") {
  const auto check = [](const std::string& payload, const std::string& part) {
    check_spoilt(overwriting(payload), errc::bad_input, {shard_name, "tensor 'a'", part});
  };
  check("", "no count");
  check("abc", "no count");
  check(u32(1), "4 bytes for 1 changes");
  check(u32(1) + u32(0), "8 bytes for 1 changes");
  check(u32(1) + u32(0) + "xy", "10 bytes for 1 changes");
  check(u32(0) + "x", "5 bytes for 0 changes");
  check(u32(0xffffffff) + u32(0) + "x", "for 4294967295 changes");
  check(u32(2) + u32(3) + u32(3) + "xy", "ascending");
  check(u32(2) + u32(3) + u32(2) + "xy", "ascending");
  check(u32(1) + u32(8) + "x", "changes byte 8, past the end");
  check(u32(1) + u32(0xffffffff) + "x", "changes byte 4294967295, past the end");
  check(u32(1) + u32(7) + "x", "checksum");
}

// Mapped, it would end the process: SIGBUS.
TEST_CASE("a shard that is cut short after it was opened is refused") {
  const layout one({{"a", dtype::bf16, {1 << 20}}});
  const weight_buffer base(one);
  auto target = base.clone();
  unsigned seed = 1;
  for (auto& b : target.tensor(0)) b = static_cast<std::byte>((seed = seed * 1664525 + 1) >> 24);
  for (const auto encoding :
       {published_encoding::xored, published_encoding::overwrite, published_encoding::coded}) {
    temp_dir dir;
    publish_options options;
    options.encoding = encoding;
    publish_delta(dir.path(), 1, 0, one, reader_of(base), reader_of(target), options);
    const auto delta = published_delta::open(dir / "weight_v000001", one);
    const auto shard = dir / "weight_v000001" / shard_name;
    fs::resize_file(shard, fs::file_size(shard) / 2);
    auto live = base.clone();
    check_refused([&] { delta.apply(live); }, errc::bad_input, {shard_name, "ends at byte"});
    CHECK(contents(live) == contents(base));
    std::vector<std::byte> out(part_stream::window_bytes);
    const auto stream = [&] {
      part_stream part(encoding, delta.compressed(0), one.bytes(0), 2, 27);
      for (std::size_t at = 0; at < one.bytes(0); at += out.size())
        (void)part.next(std::as_const(base).tensor(0).subspan(at, out.size()), out);
    };
    check_refused(stream, errc::bad_input, {shard_name, "ends at byte"});
  }
}
