// Decides how the tests of apps/ call the program and look at what it says.
#pragma once

#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/child.hpp"
#include "support/places.hpp"
#include "weights/checkpoint.hpp"
#include "weights/published.hpp"
#include "weights/test_files.hpp"

namespace lockstep::test {

using json = nlohmann::json;
using arguments = std::vector<std::string>;

inline const fs::path tiny_rl = example_data() / "tiny-rl";
inline const fs::path vectors = test_data() / "published";

inline child_result run_program(const arguments& with, const child_options& options = {}) {
  arguments all{(build_tree() / "lockstep").string()};
  all.insert(all.end(), with.begin(), with.end());
  return run_child(all, options);
}

/// `lockstep replay` of a base and a stream, without log lines.
inline child_result replay(const fs::path& base, const fs::path& stream, const arguments& more = {},
                           const child_options& options = {}) {
  arguments all{"replay",        "--base", base.string(),  "--stream",
                stream.string(), "--set",  "log.level=off"};
  all.insert(all.end(), more.begin(), more.end());
  return run_program(all, options);
}

inline child_result replay_tiny(const arguments& more = {}, const child_options& options = {}) {
  return replay(tiny_rl / "base", tiny_rl / "stream", more, options);
}

/// What `replay --json` printed, checked line by line: sync reports, and the summary last.
struct report {
  std::vector<json> syncs;
  json summary;

  /// The committed sync of `version`.
  const json& committed(std::uint64_t version) const {
    for (const auto& s : syncs)
      if (s["version"] == version && s["result"] != "aborted") return s;
    FAIL("no sync of version " << version);
    return syncs.front();
  }
};

report parse_report(const std::string& out);

/// A run that ended well: exit 0, silence on standard error, every audit passed.
inline report passed(const child_result& r) {
  INFO("stdout: " << r.out);
  INFO("stderr: " << r.err);
  REQUIRE(r.status == 0);
  CHECK(r.err.empty());
  auto parsed = parse_report(r.out);
  CHECK(parsed.summary["audit"] == "pass");
  return parsed;
}

/// A run refused with exactly one line that contains all of `parts`.
inline void check_refusal(const child_result& r, const std::vector<std::string>& parts,
                          int status = 2) {
  INFO("stdout: " << r.out);
  INFO("stderr: " << r.err);
  CHECK(r.signal == 0);
  CHECK(r.status == status);
  CHECK_FALSE(r.err.empty());
  CHECK(lines_of(r.err).size() == 1);
  CHECK(r.err.ends_with('\n'));
  CHECK(r.err.starts_with("lockstep: "));
  for (const auto& part : parts) CHECK_THAT(r.err, Catch::Matchers::Contains(part));
}

inline fs::path out_file(const fs::path& dir, std::size_t receiver) {
  return dir / ("receiver-" + std::to_string(receiver)) / "model.safetensors";
}

/// Receiver `index`'s file holds exactly `expected`'s layout and bytes.
template <tensor_source T>
void check_written(const fs::path& dir, std::size_t receivers, const T& expected) {
  for (std::size_t i = 0; i < receivers; ++i) {
    const auto written = checkpoint::open(out_file(dir, i));
    REQUIRE(written.shape() == expected.shape());
    CHECK(contents(written) == contents(expected));
  }
}

/// A checkpoint directory that holds `source`.
template <tensor_source T>
fs::path make_checkpoint(const fs::path& dir, const T& source) {
  write_safetensors(dir / "model.safetensors", source);
  return dir;
}

/// A small model: a pair of bf16 matrices and a bias.
inline weight_buffer small_model(unsigned seed = 1) {
  weight_buffer out(layout({{"bias", dtype::f32, {7}},
                            {"head", dtype::bf16, {16, 8}},
                            {"trunk", dtype::bf16, {32, 16}}}));
  for (std::size_t i = 0; i < out.shape().count(); ++i)
    for (auto& b : out.tensor(i)) {
      seed = seed * 1664525u + 1013904223u;
      b = static_cast<std::byte>(seed >> 24);
    }
  return out;
}

}  // namespace lockstep::test
