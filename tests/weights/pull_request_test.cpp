// What a POST /pull_weights may ask for, and what an engine's answer says.
#include "weights/pull_request.hpp"

#include <catch2/catch.hpp>
#include <filesystem>

#include "messages/errors.hpp"
#include "weights/test_files.hpp"

using namespace lockstep;
using lockstep::test::check_refused;
using lockstep::test::temp_dir;

TEST_CASE("a request names a stream, a checkpoint and a version that are served") {
  const temp_dir dir;
  std::filesystem::create_directory(dir / "stream");
  std::filesystem::create_directory_symlink(dir / "stream", dir / "link");
  const pull_directories permitted{{(dir / "other").string(), (dir / "stream").string()},
                                   {(dir / "host").string()}};
  const auto body = [&](const std::string& source, const std::string& host,
                        const std::string& version) {
    return R"({"more": [1, {}], "local_checkpoint_dir": ")" + host + R"(", "source_dir": ")" +
           source + R"(", "target_version": )" + version + "}";
  };
  const auto stream = (dir / "stream").string();
  const auto host = (dir / "host").string();
  for (const auto& source : {stream, (dir / "link").string(), stream + "/../stream/."}) {
    INFO(source);
    const auto asked = parse_pull_request(body(source, host, "7"), permitted);
    CHECK(asked.source == stream);  // as we spell it, not as they do
    CHECK(asked.checkpoint == host);
    CHECK(asked.target == 7);
  }
  CHECK(parse_pull_request(body(stream, host, "18446744073709551615"), permitted).target ==
        UINT64_MAX);
  const auto refused = [&](const std::string& text, const std::string& says) {
    INFO(text);
    check_refused([&] { parse_pull_request(text, permitted); }, errc::bad_input, {says});
  };
  for (const auto* version :
       {"0", "-1", "1.0", "\"7\"", "null", "true", "[7]", "{}", "18446744073709551616", "1e3"})
    refused(body(stream, host, version), "target_version is not a number from 1 on");
  for (const auto* text : {"", "[]", "null", "7", "{", R"({"a":1}x)", "\xff", "{\"a\":\"\xff\"}"})
    refused(text, "the body is not a JSON object");
  refused("{}", "local_checkpoint_dir is not a string");
  refused(R"({"local_checkpoint_dir": "a", "source_dir": 3})", "source_dir is not a string");
  refused(body(host, host, "7"), "source_dir '" + host + "' is not one that is served");
  refused(body(stream, stream, "7"), "local_checkpoint_dir '" + stream + "' is not one");
  for (const auto& source : {stream + "/sub", (dir / "stream/..").string(), std::string(),
                             std::string("stream"), std::string(5'000, 'x')})
    refused(body(source, host, "7"), "is not one that is served");
}

TEST_CASE("an engine has loaded what it says that it has") {
  for (const auto* body : {"", "{}", R"({"success": true})", "ok", "[]", "null",
                           R"({"message": "success"})", R"([{"success": false}])"}) {
    INFO(body);
    CHECK(says_loaded(200, body));
    CHECK_FALSE(says_loaded(500, body));
    CHECK_FALSE(says_loaded(204, body));
  }
  CHECK_FALSE(says_loaded(200, R"({"success": false})"));
}

TEST_CASE("an answer whose success is no truth value is none") {
  for (const auto* success : {"null", "1", "0", "\"true\"", "\"false\"", "[]", "{}"}) {
    INFO(success);
    CHECK_FALSE(says_loaded(200, std::string(R"({"success": )") + success + "}"));
  }
}
