#include <rapidcheck.h>
#include <sys/stat.h>

#include "support/places.hpp"
#include "test_files.hpp"
#include "weights/safetensors.hpp"

using namespace lockstep;
using namespace lockstep::test;

namespace {

const std::string u8 = R"("dtype":"U8")";

safetensors_header parse(const std::string& file) {
  return parse_safetensors(bytes(file), "F");
}

void check_bad(const std::string& file, const std::vector<std::string>& parts) {
  check_refused([&] { parse(file); }, errc::bad_input, parts);
}

std::string tensor(const std::string& name, const std::string& shape, const std::string& offsets,
                   const std::string& type = "U8") {
  return '"' + name + R"(":{"dtype":")" + type + R"(","shape":)" + shape + R"(,"data_offsets":)" +
         offsets + "}";
}

std::string object(std::initializer_list<std::string> entries) {
  std::string out = "{";
  for (const auto& e : entries) out += (out.size() > 1 ? "," : "") + e;
  return out + "}";
}

std::string repeat(const std::string& text, std::size_t count) {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) out += text;
  return out;
}

}  // namespace

TEST_CASE("a header is accepted padded or not, in any order, with empty tensors and scalars") {
  const auto header = object({tensor("z", "[2]", "[0,2]"), tensor("e", "[0,9]", "[2,2]", "F64"),
                              R"("__metadata__":{"format":"pt","":"\n"})",
                              tensor("a", "[]", "[2,6]", "F32"), tensor("f", "[3,0]", "[6,6]")});
  for (const auto* padding : {"", "  ", "       "}) {
    const auto parsed = parse(with_header(header + padding, "abcdef"));
    REQUIRE(parsed.tensors.size() == 4);
    CHECK(parsed.tensors[0].spec == tensor_spec{"a", dtype::f32, {}});
    CHECK(parsed.tensors[1].spec == tensor_spec{"e", dtype::f64, {0, 9}});
    CHECK(parsed.tensors[3].begin == 0);
    CHECK(parsed.tensors[3].end == 2);
    CHECK(parsed.metadata.at("format") == "pt");
    CHECK(parsed.metadata.at("").size() == 1);
  }
  CHECK(parse(with_header("{}")).tensors.empty());
}

TEST_CASE("the length of a header is checked before it is believed") {
  check_bad("", {"0 bytes, too few"});
  check_bad("1234567", {"7 bytes, too few"});
  check_bad(length_prefix(~0ull) + "{}", {"18446744073709551615", "limit"});
  check_bad(length_prefix(1ull << 63) + "{}", {"limit"});
  check_bad(length_prefix(3) + "{}", {"header of 3 bytes, but ends after 2"});
  check_bad(length_prefix(0) + "{}", {"does not start with '{'"});

  temp_dir dir;
  const auto huge = dir / "huge.safetensors";
  put(huge, length_prefix(100'000'001) + "{}");
  fs::resize_file(huge, 100'000'100);  // sparse: takes no room
  check_refused([&] { checkpoint::open(huge); }, errc::bad_input,
                {huge.string(), "100000001", "limit"});

  CHECK(file_limits().header_bytes_max == 100'000'000);
  file_limits limits;
  limits.header_bytes_max = 9;
  CHECK(parse_safetensors(bytes(with_header("{}       ")), "F", limits).data_offset == 17);
  check_refused([&] { parse_safetensors(bytes(with_header("{}        ")), "F", limits); },
                errc::bad_input, {"header of 10 bytes, the limit is 9"});
}

TEST_CASE("a header is one JSON object of exactly the format's shape") {
  for (const auto* start : {" {}", "[]", "\xef\xbb\xbf{}", "null"})
    check_bad(with_header(start), {"does not start with '{'"});
  for (const auto* broken : {"{", "{}}", "{} x", "{\"a\":}", "{'a':1}", "{\"a\"", "{\"\xff\":{}}",
                             "{\"a\xc3\":{}}", "{\"\\ud800\":{}}"})
    check_bad(with_header(broken), {"not valid JSON"});
  check_bad(with_header(std::string("{}\0garbage", 10)), {"NUL"});

  for (const auto* value : {"null", "true", "1", "-1", "1.5", "\"x\"", "[]", "[1]"})
    check_bad(with_header("{\"a\":" + std::string(value) + "}"), {"tensor 'a'", "unexpected"});
  for (const auto* value : {"null", "1", "\"x\"", "[]"})
    check_bad(with_header("{\"__metadata__\":" + std::string(value) + "}"), {"unexpected"});
  for (const auto* value : {"null", "1", "{}", "[]", "true"})
    check_bad(with_header("{\"__metadata__\":{\"k\":" + std::string(value) + "}}"), {"unexpected"});
}

TEST_CASE("nesting is refused where it begins, however deep it goes") {
  const auto deep = [](const std::string& open) { return "{" + repeat(open, 100'000); };
  check_bad(with_header(deep("\"dtype\":{")), {"tensor 'dtype'", "unexpected object"});
  check_bad(with_header("{\"a\":" + repeat("[", 100'000)), {"tensor 'a'", "unexpected array"});
  check_bad(with_header("{\"a\":{\"shape\":" + repeat("[", 100'000)),
            {"tensor 'a'", "unexpected array"});
  check_bad(with_header("{\"a\":{\"shape\":[{"), {"tensor 'a'", "unexpected object"});
}

TEST_CASE("duplicates are refused at every level") {
  const auto one = tensor("a", "[1]", "[0,1]");
  check_bad(with_header(object({one, tensor("b", "[1]", "[1,2]"), one}), "xy"),
            {"tensor 'a' stands twice"});
  check_bad(with_header(R"({"a":{)" + u8 + "," + u8 + "}}"), {"tensor 'a'", "two dtype"});
  check_bad(with_header(R"({"a":{"shape":[1],"shape":[1]}})"), {"tensor 'a'", "two shape"});
  check_bad(with_header(R"({"a":{"data_offsets":[0,1],"data_offsets":[0,1]}})"),
            {"tensor 'a'", "two data_offsets"});
  check_bad(with_header(R"({"__metadata__":{},"__metadata__":{}})"), {"two __metadata__"});
  check_bad(with_header(R"({"__metadata__":{"k":"1","k":"2"}})"), {"'k' twice"});
}

TEST_CASE("a tensor needs its three fields, each of its own kind") {
  check_bad(with_header(R"({"a":{}})"), {"tensor 'a' lacks"});
  check_bad(with_header(R"({"a":{"shape":[1],"data_offsets":[0,1]}})", "x"), {"tensor 'a' lacks"});
  check_bad(with_header(R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", "x"), {"tensor 'a' lacks"});
  check_bad(with_header(R"({"a":{"dtype":"U8","shape":[1]}})", "x"), {"tensor 'a' lacks"});
  check_bad(with_header(object({tensor("a", "[1]", "[0]")}), "x"), {"tensor 'a' lacks"});
  check_bad(with_header(object({tensor("a", "[1]", "[0,1,2]")}), "x"),
            {"tensor 'a'", "more than two"});
  check_bad(with_header(object({tensor("a", "[1]", "[0,1]", "U7")}), "x"),
            {"tensor 'a'", "unknown dtype 'U7'"});
  check_bad(with_header(object({tensor("a", "[1]", "[0,1]", "u8")}), "x"), {"unknown dtype 'u8'"});
  check_bad(with_header(R"({"a":{"colour":"red"}})"), {"tensor 'a'", "unknown key 'colour'"});
  for (const auto* shape : {"[-1]", "[-0]", "[1.0]", "[1e0]", "[\"1\"]", "[null]", "[[1]]", "1",
                            "{}", "\"x\"", "[18446744073709551616]"})
    check_bad(with_header(object({tensor("a", shape, "[0,1]")}), "x"),
              {"tensor 'a'", "unexpected"});
  for (const auto* offsets : {"[-1,1]", "[0,1.5]", "[0,[1]]", "0"})
    check_bad(with_header(object({tensor("a", "[1]", offsets)}), "x"),
              {"tensor 'a'", "unexpected"});
  check_bad(with_header(R"({"a":{"dtype":5}})"), {"tensor 'a'", "unexpected number"});
}

TEST_CASE("names, ranks and counts have limits") {
  const auto longest = std::string(tensor_name_bytes_max, 'n');
  CHECK(parse(with_header(object({tensor(longest, "[1]", "[0,1]")}), "x")).tensors.size() == 1);
  check_bad(with_header(object({tensor(longest + "n", "[1]", "[0,1]")}), "x"),
            {"name of more than"});
  check_bad(with_header(object({tensor("", "[1]", "[0,1]")}), "x"), {"empty name"});

  const auto rank = [](std::size_t n) { return "[" + repeat("1,", n - 1) + "1]"; };
  CHECK(parse(with_header(object({tensor("a", rank(64), "[0,1]")}), "x")).tensors.size() == 1);
  check_bad(with_header(object({tensor("a", rank(65), "[0,1]")}), "x"),
            {"tensor 'a'", "64 extents"});

  file_limits limits;
  CHECK(limits.entry_count_max == 1'000'000);
  limits.entry_count_max = 2;
  const auto limited = [&](const std::string& header) {
    return parse_safetensors(bytes(with_header(header)), "F", limits);
  };
  const auto e = [](const std::string& name) { return tensor(name, "[0]", "[0,0]"); };
  const std::string metadata = R"("__metadata__":{"1":"","2":"")";
  CHECK(limited(object({e("a"), e("b"), metadata + "}"})).tensors.size() == 2);
  check_refused(
      [&] {
        limited(object({e("a"), e("b"), e("c")}));
      },
      errc::bad_input, {"more than 2 tensors"});
  check_refused([&] { limited(object({metadata + R"(,"3":""})"})); }, errc::bad_input,
                {"more than 2 metadata entries"});
}

TEST_CASE("offsets lie inside the data, in order, and cover it without hole or overlap") {
  const auto pair = [](const std::string& a, const std::string& b,
                       const std::string& shape = "[4]") {
    return object({tensor("a", shape, a), tensor("b", shape, b)});
  };
  const std::string data = "12345678";
  CHECK(parse(with_header(pair("[4,8]", "[0,4]"), data)).tensors.size() == 2);
  check_bad(with_header(pair("[0,4]", "[3,7]"), data), {"tensor 'b' begins at 3, inside"});
  check_bad(with_header(pair("[0,4]", "[0,4]"), data), {"inside the tensor before it"});
  check_bad(with_header(pair("[0,4]", "[5,9]"), data + "9"), {"tensor 'b'", "hole of 1 bytes"});
  check_bad(with_header(pair("[4,0]", "[4,8]"), data),
            {"tensor 'a' ends at 0, before its begin 4"});
  check_bad(with_header(pair("[0,4]", "[4,8]"), "1234567"), {"tensor 'b' ends at 8, past the end"});
  check_bad(with_header(pair("[0,4]", "[18446744073709551612,18446744073709551615]"), data),
            {"tensor 'b'", "past the end"});
  check_bad(with_header(pair("[0,4]", "[4,8]"), data + "9"), {"1 bytes after its last tensor"});
  check_bad(with_header(pair("[0,4]", "[4,8]", "[5]"), data), {"tensor 'a' has 4 bytes", "make 5"});
  check_bad(with_header("{}", "x"), {"1 bytes after its last tensor"});
  // An empty tensor, too, stands where another ends.
  const auto empty = [&](const std::string& at) {
    return with_header(object({tensor("a", "[8]", "[0,8]"), tensor("e", "[0]", at)}), data);
  };
  CHECK(parse(empty("[0,0]")).tensors.size() == 2);
  CHECK(parse(empty("[8,8]")).tensors.size() == 2);
  check_bad(empty("[3,3]"), {"tensor 'e' begins at 3, inside"});
  check_bad(empty("[9,9]"), {"tensor 'e'", "past the end"});
}

TEST_CASE("shapes whose size overflows are refused") {
  // The product is 4 modulo 2^64: the shape that fooled a public parser.
  check_bad(
      with_header(object({tensor("a", "[4194305,4194305,211106198978564]", "[0,4]")}), "1234"),
      {"tensor 'a'", "cannot be represented"});
  check_bad(with_header(object({tensor("a", "[2305843009213693952]", "[0,0]", "F64")})),
            {"tensor 'a'", "cannot be represented"});
  check_bad(with_header(object({tensor("a", "[3]", "[0,1]", "F4")}), "1"),
            {"tensor 'a'", "cannot be represented"});
  const auto legal = object({tensor("a", "[18446744073709551615,0]", "[0,0]")});
  CHECK(parse(with_header(legal)).tensors.size() == 1);
}

TEST_CASE("a message is one line and short whatever a name holds") {
  check_bad(with_header(object({tensor("a\\nb\\u0000\\u001b[31m", "[2]", "[0,1]")}), "x"),
            {R"('a\x0ab\x00\x1b[31m')"});
  // Cut in the middle of a character, were it not for the care taken.
  const auto name = "x" + repeat("\xc3\xa9", 2000);
  check_refused([&] { parse(with_header(object({tensor(name, "[2]", "[0,1]")}), "x")); },
                errc::bad_input, {"\xc3\xa9…'"});
  try {
    parse(with_header(R"({"a":")" + std::string(1 << 20, 'x')));
    FAIL("accepted");
  } catch (const error& e) {
    CHECK(std::string(e.what()).size() < 200);
  }
}

TEST_CASE("every truncation and extension of a real file is refused") {
  const auto whole = get(test_data() / "published/xxh3-128/base/model.safetensors");
  REQUIRE(whole.size() == 248);
  CHECK(parse(whole).tensors.size() == 2);
  for (std::size_t length = 0; length < whole.size(); ++length) {
    INFO("length " << length);
    // A span of exactly this length on the heap, so that a sanitizer sees the first byte beyond.
    const std::vector<char> copy(whole.begin(),
                                 whole.begin() + static_cast<std::ptrdiff_t>(length));
    check_refused([&] { parse_safetensors(std::as_bytes(std::span(copy)), "F"); }, errc::bad_input,
                  {"F: "});
  }
  check_bad(whole + "x", {"after its last tensor"});
}

TEST_CASE("a file with damaged bytes is parsed or refused and nothing else") {
  const auto whole = get(test_data() / "published/xxh3-128/base/model.safetensors");
  CHECK(rc::check("damage", [&](std::vector<std::pair<std::uint8_t, char>> damage) {
    std::vector<char> copy(whole.begin(), whole.end());
    for (const auto& [at, value] : damage) copy[at % copy.size()] = value;
    try {
      const auto header = parse_safetensors(std::as_bytes(std::span(copy)), "F");
      std::uint64_t sum = 0;
      for (const auto& t : header.tensors) sum += *bytes_of(t.spec);
      RC_ASSERT(header.data_offset + sum == copy.size());
    } catch (const error& e) {
      RC_ASSERT(e.code() == errc::bad_input);
    }
  }));
}

TEST_CASE("only regular files are opened, and none is waited for") {
  temp_dir dir;
  check_refused([&] { checkpoint::open(dir / "absent.safetensors"); }, errc::bad_input,
                {"absent.safetensors", "cannot be opened"});
  ::mkfifo((dir / "model.safetensors").c_str(), 0600);
  check_refused([&] { checkpoint::open(dir.path()); }, errc::bad_input,
                {"model.safetensors", "not a regular file"});
  fs::remove(dir / "model.safetensors");
  fs::create_directory(dir / "model.safetensors");
  check_refused([&] { checkpoint::open(dir.path()); }, errc::bad_input, {"not a regular file"});
  check_refused([&] { checkpoint::open("/dev/zero"); }, errc::bad_input, {"not a regular file"});
  put(dir / "empty.safetensors", "");
  check_refused([&] { checkpoint::open(dir / "empty.safetensors"); }, errc::bad_input,
                {"empty.safetensors", "too few"});
}
