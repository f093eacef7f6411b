// Decides what strangers may ask for by `POST /pull_weights`, and what an engine's answer says.
// Private to weights/ and the program.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

/// The directories that may be named; no other is read or written.
struct pull_directories {
  std::vector<std::string> sources;
  std::vector<std::string> checkpoints;
};

/// What is asked for.
struct pull_request {
  std::filesystem::path source;      ///< one of the sources, as it is spelled there
  std::filesystem::path checkpoint;  ///< one of the checkpoints, as it is spelled there
  std::uint64_t target = 0;          ///< version, 1 or more
};

/// Reads `{"local_checkpoint_dir": …, "source_dir": …, "target_version": N}`; what else the object
/// holds is not looked at. Throws `error{bad_input}` on anything else, and on a directory that is
/// none of `permitted`, however it is spelled.
pull_request parse_pull_request(std::string_view body, const pull_directories& permitted);

/// Whether an engine that was told to load a checkpoint answers that it did: with status 200 and,
/// where it answers with an object that has it, a "success" that is true.
bool says_loaded(unsigned status, std::string_view body);

}  // namespace lockstep
