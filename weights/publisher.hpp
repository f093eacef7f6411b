// Decides how a series of states becomes a stream of published versions, and which of them stay.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "weights/checkpoint.hpp"
#include "weights/published.hpp"

namespace lockstep {

class stream_owner;

/// How to publish a series.
struct publisher_options {
  std::filesystem::path out;
  publish_options how;
  std::string run;               ///< own_key::run; empty: that of the stream, or a new one
  std::uint64_t full_every = 0;  ///< every so many versions a full one; 0: never
  std::uint64_t keep = 0;        ///< newest versions that must stay; 0: all stay
  /// Checkpoints whose markers bound what may go: none that one of them has yet to pass.
  std::vector<std::filesystem::path> readers;
  /// Further readers' oldest version, asked before anything goes. May be empty.
  std::function<std::uint64_t()> slowest;
};

/// One state of all weights, as a publisher reads it. Borrows what it was made from.
struct published_source {
  const layout& shape;
  tensor_reader tensors;
  /// XXH3-128 of each tensor, as `tensor_digests` makes them.
  std::function<std::vector<std::string>()> digests;
  /// Told that bytes [begin, end) of a tensor have been read, for now; on any thread. May be empty.
  std::function<void(std::size_t tensor, std::uint64_t begin, std::uint64_t end)> done;
  /// Files that a full version of it holds beside the tensors: configuration, tokenizer.
  std::vector<std::filesystem::path> companions;
};

/// A checkpoint is read a window at a time and given back to the system. Throws `error{bad_input}`
/// if its directory cannot be listed.
published_source source_of(const checkpoint& from);
published_source source_of(const weight_buffer& from);

/// Tells both of what has been read of them. Borrows them.
decltype(published_source::done) done_of(const published_source& base,
                                         const published_source& target);

/// How one version is special.
struct version_options {
  bool full = false;  ///< also where `publisher_options::full_every` says nothing
  std::map<std::string, std::string> metadata;  ///< further keys of the index's `metadata`
};

/// What became of one version.
struct published_version {
  std::uint64_t version = 0;
  bool full = false;
  bool there = false;       ///< it was published before, with the same weights, and left alone
  bool gone = false;        ///< it was published before, and removed for a later full one
  std::uint64_t bytes = 0;  ///< of its files
  std::size_t removed = 0;  ///< versions that went
};

/// Who publishes one version after another into one directory.
class version_publisher {
 public:
  virtual ~version_publisher() = default;
  /// Publishes `target` as `version`, `base` being `base_version`'s weights, of the same layout,
  /// unless that was done before. Throws `error`: `unwritable` if the version is published with
  /// other weights, or it or the delta's base belongs to another run; `wrong_layout`.
  virtual published_version add(std::uint64_t version, std::uint64_t base_version,
                                const published_source& base, const published_source& target,
                                const version_options& special = {}) = 0;
  /// Which training this stream's versions are of.
  virtual const std::string& run() const noexcept = 0;
  virtual const std::filesystem::path& stream() const noexcept = 0;
};

/// Publishes alone: a second one in that directory is refused. Not thread-safe.
class publisher final : public version_publisher {
 public:
  /// Throws `error`.
  explicit publisher(publisher_options options);
  publisher(const publisher&) = delete;
  publisher& operator=(const publisher&) = delete;
  ~publisher() override;

  published_version add(std::uint64_t version, std::uint64_t base_version,
                        const published_source& base, const published_source& target,
                        const version_options& special = {}) override;
  const std::string& run() const noexcept override;
  const std::filesystem::path& stream() const noexcept override;

 private:
  bool is_published(const std::filesystem::path& dir, std::uint64_t version,
                    const published_source& target);

  std::unique_ptr<stream_owner> owner_;
  std::optional<std::uint64_t> digests_of_;  // the version whose tensors' digests are held
  std::vector<std::string> digests_;
};

/// A directory for now, beside what is being made, removed with all that is in it: by its
/// destructor as well as can be.
class scratch_directory {
 public:
  /// What the names of all of them begin with.
  static constexpr std::string_view prefix = ".lockstep-scratch-";

  explicit scratch_directory(const std::filesystem::path& beside);
  scratch_directory(const scratch_directory&) = delete;
  scratch_directory& operator=(const scratch_directory&) = delete;
  ~scratch_directory();
  const std::filesystem::path& path() const noexcept { return path_; }
  /// Nobody may use it any more. Throws `error{unwritable}`.
  void remove();

 private:
  std::filesystem::path path_;
};

}  // namespace lockstep
