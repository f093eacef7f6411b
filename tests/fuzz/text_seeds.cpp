// Decides the seeds of `settings`, `pull`, `http` and `address`: what can be read as text.
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "config/settings_loader.hpp"
#include "fuzz/pull_directories.hpp"
#include "fuzz/seed_files.hpp"

namespace lockstep::fuzz {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

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
  int count = 0;
  for (const std::string value : {"\"x\"", "-1", "1.5", "true", "[1]", "{a=1}", "1979-05-27"}) {
    put(dir / ("type-" + std::to_string(count)), "[sync]\nmembers_min = " + value + "\n");
    put(dir / ("section-" + std::to_string(count++)), "sync = " + value + "\n");
  }
  put(dir / "all-three", "[sync]\nmembers_min = 2\n[log]\nlevel = \"info\"\n" +
                             overrides.substr(0, 60) + "\nLOCKSTEP_LOG_FILE=\xc3\xa9.log\n");
}

void rare_settings_seeds(const fs::path& dir) {
  const std::string nul(1, '\0');
  put(dir / "choices",
      nul + "log.level=loud\nlog.level\nnope=1\nLOCKSTEP_NOPE=1\n" +
          "sync.members_min=99999999999\nsync.members_min=x\nlog.file=" + std::string(5'000, 'x') +
          "\ntrainer.run_file=\x01\nlog.file=\xed\xa0\x80\n");
  put(dir / "no-table", "log = 3\n");
  put(dir / "negative", "[sync]\nmembers_min = -3\n");
}

void pull_seeds(const fs::path& dir) {
  const auto asks = [](const std::string& source, const std::string& host, const json& version) {
    return json{{"source_dir", source}, {"local_checkpoint_dir", host}, {"target_version", version}}
        .dump();
  };
  const std::string stream = pull_sources[0];
  const std::string host = pull_checkpoints[0];
  put(dir / "asked", asks(stream, host, 7));
  put(dir / "asked-in-other-words", asks(stream + "/../other/.", host + "/", 7));
  put(dir / "last-version", asks(stream, host, UINT64_MAX));
  put(dir / "version-0", asks(stream, host, 0));
  put(dir / "version-in-quotes", asks(stream, host, "7"));
  put(dir / "elsewhere", asks("/etc", host, 7));
  put(dir / "elsewhere-on-the-host", asks(stream, stream, 7));
  put(dir / "name-with-nul", asks(stream + std::string(1, '\0'), host, 7));
  put(dir / "name-in-two-lines", asks("a\nb", host, 7));
  put(dir / "no-source", json{{"local_checkpoint_dir", host}}.dump());
  put(dir / "no-object", "[1]");
  put(dir / "nothing", "");
  put(dir / "twice", R"({"source_dir":1,"source_dir":")" + stream + "\"}");
  put(dir / "deep", std::string(2'000, '[') + std::string(2'000, ']'));
  put(dir / "loaded", R"({"success": true, "message": "ok"})");
  put(dir / "not-loaded", R"({"success": false})");
  put(dir / "success-is-text", R"({"success": "false"})");
  put(dir / "success-is-nothing", R"({"success": null})");
}

void http_seeds(const fs::path& dir) {
  const auto seed = [&](const std::string& name, const std::vector<std::string>& lines,
                        const std::string& body = {}) {
    std::string text;
    for (const auto& line : lines) text += line + "\r\n";
    put(dir / name, text + "\r\n" + body);
  };
  const std::string host = "Host: 127.0.0.1:30100";
  const std::string chunked = "Transfer-Encoding: chunked";
  seed("quick", {"GET /quick HTTP/1.1", host});
  seed("quick-and-close", {"GET /quick HTTP/1.1", host, "Connection: close"});
  seed("old", {"GET /quick HTTP/1.0"});
  seed("head", {"HEAD /quick HTTP/1.1", host, "", "GET /quick HTTP/1.1", host});
  seed("fails", {"GET /fails HTTP/1.1", host});
  seed("slow", {"POST /slow HTTP/1.1", host, "Content-Length: 15"}, R"({"version": 12})");
  seed("fails-slowly", {"POST /fails-slowly HTTP/1.1", host, "Content-Length: 2"}, "{}");
  seed("chunks", {"POST /slow HTTP/1.1", host, chunked},
       "4\r\n{\"a\"\r\n3;x=y\r\n: 1\r\n1\r\n}\r\n0\r\nTrailer: t\r\n\r\n");
  seed("body-too-long", {"POST /slow HTTP/1.1", host, "Content-Length: 1025"});
  seed("chunk-too-long", {"POST /slow HTTP/1.1", chunked}, "ffffffffffffffff\r\nx");
  seed("chunks-too-long", {"POST /slow HTTP/1.1", chunked},
       "400\r\n" + std::string(1024, 'x') + "\r\n400\r\n" + std::string(1024, 'y') + "\r\n");
  seed("header-too-long", {"GET /" + std::string(600, 'x') + " HTTP/1.1"});
  seed("two-lengths", {"POST / HTTP/1.1", "Content-Length: 1", "Content-Length: 2"}, "ab");
  seed("length-and-chunks", {"POST / HTTP/1.1", "Content-Length: 1", chunked}, "0\r\n\r\n");
  seed("negative-length", {"POST / HTTP/1.1", "Content-Length: -1"});
  seed("folded", {"GET /quick HTTP/1.1", "Host: a", " b"});
  std::string many;
  for (int i = 0; i < 40; ++i) many += "GET /quick HTTP/1.1\r\n\r\nGET /slow HTTP/1.1\r\n\r\n";
  put(dir / "one-after-the-other", many);
  seed("answer", {"HTTP/1.1 200 OK", "Content-Length: 17"}, R"({"success": true})");
  seed("answer-in-chunks", {"HTTP/1.1 200 OK", chunked}, "2\r\n{}\r\n0\r\n\r\n");
  seed("answer-to-the-end", {"HTTP/1.1 503 Busy"}, R"({"success": false})");
  seed("answer-cut-off", {"HTTP/1.1 200 OK", "Content-Length: 18"}, R"({"success": true})");
  seed("answer-too-long", {"HTTP/1.1 200 OK", "Content-Length: 1048577"});
  seed("answer-without-body", {"HTTP/1.1 204 No Content"});
  seed("answer-goes-on", {"HTTP/1.1 100 Continue"});
  put(dir / "address", "http://engine.example:30000");
  put(dir / "address-of-ipv6", "http://[::1]:30000");
}

void address_seeds(const fs::path& dir) {
  const std::vector<std::pair<std::string, std::string>> all{
      {"one", "127.0.0.1:7000"},
      {"three", "a.example:1,[::1]:2,node-3_x:65535"},
      {"zone", "[fe80::1%eth0]:80"},
      {"no-port", "host"},
      {"no-host", ":1"},
      {"port-too-large", "a:65536"},
      {"open-bracket", "[::1:1"},
      {"bare-ipv6", "::1:1"},
      {"last-is-empty", "a:1,"}};
  for (const auto& [name, text] : all) put(dir / name, text);
}

}  // namespace

void put_text_seeds(const fs::path& dir) {
  settings_seeds(dir / "settings");
  rare_settings_seeds(dir / "settings");
  pull_seeds(dir / "pull");
  http_seeds(dir / "http");
  address_seeds(dir / "address");
}

}  // namespace lockstep::fuzz
