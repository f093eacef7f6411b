// Decides which whole checkpoint and which deltas lead a host to a version. Private to weights/
// and the program.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "messages/layout.hpp"
#include "weights/host_record.hpp"

namespace lockstep {

struct checkpoint_index;
struct pull_start;

/// One published version that is on the way.
struct plan_step {
  std::filesystem::path dir;
  version_record record;
  bool indexed = true;  ///< not a lone file
};

/// At most one whole checkpoint, then deltas, each of which has the one before it as its base.
struct pull_plan {
  std::optional<plan_step> whole;
  std::vector<plan_step> deltas;
};

/// The way from what `from` says to `target`: back from the target to that version or, above it, to
/// the newest full version. Throws `error{bad_input}` where a version on the way is missing,
/// malformed or not published yet, `error{wrong_base}` where the way misses that version; with
/// nothing to start from and no base (`has_base`), where it leads to version 0, the reason of
/// `from`. Two versions that say different digests of the state between them are malformed too.
/// `expected`: the checkpoint's layout, where it has one.
pull_plan plan_pull(const std::filesystem::path& source, std::uint64_t target,
                    const pull_start& from, bool has_base, const layout* expected);

/// Whether all that is on the way is still there: whoever keeps the stream may remove versions
/// while they are read. Throws `error{bad_input}`.
bool still_there(const pull_plan& plan);

/// What an index's metadata say under a key of ours; empty if nothing.
std::string stated(const checkpoint_index& index, std::string_view key);

/// What is to be noted of a version of `source` that has an index. Throws `error{bad_input}`.
version_record record_of(const std::filesystem::path& source, std::uint64_t version);

/// Whether a checkpoint, or what is left of one, stands in `dir`.
bool holds_checkpoint(const std::filesystem::path& dir);

/// The names of what a host takes of the whole checkpoint in `dir`, ascending: its weights, as its
/// index names them, and the files beside them. Throws `error{bad_input}`.
std::vector<std::string> names_to_copy(const std::filesystem::path& dir);

/// Throws `error{bad_input}` unless `path`, with all links followed, is inside `root`.
void require_inside(const std::filesystem::path& root, const std::filesystem::path& path);
/// The same for everything in the directory `dir`.
void require_files_inside(const std::filesystem::path& root, const std::filesystem::path& dir);

}  // namespace lockstep
