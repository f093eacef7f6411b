// Decides how a checkpoint on a host is brought up to a version that a stream publishes.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "weights/acknowledgement.hpp"

namespace lockstep {

/// What to bring where.
struct pull_options {
  std::filesystem::path source;      ///< holds weight_v000001, …
  std::filesystem::path checkpoint;  ///< an ordinary checkpoint directory, changed in place
  /// What a host that has nothing starts from, as version 0: another directory than `checkpoint`.
  /// Before it takes the place of live files, it is proven by what the first delta says of it.
  std::optional<std::filesystem::path> base;
  /// The version to reach; nothing: the newest one that is published.
  std::optional<std::uint64_t> target;
  /// Take a whole checkpoint, a full version or `base`, whatever the marker says.
  bool rebuild = false;
  /// Who says what became of the target (weights/acknowledgement.hpp), if its publisher asks;
  /// empty: nobody. And where; empty: `acknowledgements_of(source)`.
  std::string name;
  std::filesystem::path acks;
  /// Told it instead, if not empty; where there is nothing to do, again. What it throws goes on.
  std::function<void(const acknowledgement&)> tell;
  /// Where `verify` keeps what several deltas made before it takes the next, at most as much as the
  /// checkpoint has; empty: where the system has temporary files.
  std::filesystem::path scratch;
  /// Where there is nothing to do, compare all that is there with what the stream says of it.
  bool verify = false;
  /// How long others may hold the lock.
  std::chrono::milliseconds lock_patience{600'000};
  /// Asked now and then, on any thread, whether to give up; what has been declared is ended all the
  /// same. May be empty.
  std::function<bool()> stopping;
  /// Told what is under way and how far it is: bytes done, of all. May be empty. Called by one
  /// thread at a time.
  std::function<void(std::string_view what, std::uint64_t done, std::uint64_t all)> progress;
};

/// What was done.
struct pull_report {
  std::uint64_t from = 0;  ///< what the marker said; 0 without one
  std::uint64_t version = 0;
  bool recovered = false;           ///< an earlier process's interrupted work was ended first
  bool whole = false;               ///< a whole checkpoint was taken
  std::size_t deltas = 0;           ///< how many were applied
  std::uint64_t read_bytes = 0;     ///< of parts and whole checkpoints in the source
  std::uint64_t changed_bytes = 0;  ///< of the checkpoint by deltas
  /// Of a checkpoint that is at the target, as far as it was compared with what the stream says.
  std::uint64_t compared_bytes = 0;
};

/// Brings `options.checkpoint` to the target. Before the first live byte changes, every tensor of
/// every delta has been decoded beside it and its checksum compared, and so has the digest of the
/// whole state where the stream has one; then the change is durably declared, and whoever is killed
/// after that is succeeded by the next call. Memory does not grow with the model. Throws `error`
/// that names the file: `bad_input` on anything malformed, missing or not published yet;
/// `wrong_base` where the checkpoint is not what the deltas start from, is later than the target,
/// or belongs to another run; `torn` where its files are damaged, or a mix, and nothing whole is
/// there to take their place; `wrong_layout`; `unwritable`; `timeout` for the lock; `shut_down`
/// where `options` said so. What is live is then what it was, or an earlier version of the chain,
/// as the marker says. Where it is at the target and that cannot be said, as `throw_unsaid`; the
/// next call says it.
pull_report pull(const pull_options& options);

/// Does all of that but the writing: neither keeps the lock nor changes a byte. A checkpoint that
/// is not what the deltas start from is verified as one that a pull would rebuild, where it would.
/// Deltas are decoded some at a time, so that memory does not grow with how many there are; what is
/// between them is in a file without a name in `options.scratch`. What is at the target is compared
/// with all that the stream says of it. Throws like `pull`, `error{unwritable}` for that file,
/// `error{torn}` where a change was interrupted, which a pull would end first, and `error{timeout}`
/// where another process is at one.
pull_report verify(const pull_options& options);

/// The versions that have a directory in `source`, ascending, published or not. Throws
/// `error{bad_input}`.
std::vector<std::uint64_t> version_numbers(const std::filesystem::path& source);
/// Those of them that are published, by an index or as a lone file. Throws `error{bad_input}`.
std::vector<std::uint64_t> published_versions(const std::filesystem::path& source);
/// The newest version in `source` that is published; nothing if there is none.
std::optional<std::uint64_t> newest_published(const std::filesystem::path& source);

}  // namespace lockstep
