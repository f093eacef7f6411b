// Decides which versions a trainer went through, and how to get from each to the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "messages/layout.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep {

struct checkpoint_index;

/// The versions a trainer went through, as they lie in one directory: a series of full checkpoints,
/// a published-directory stream, or a mix. Holds names only; files are opened by `load`.
///
/// Thread-safe: all members are const after `open`.
class weight_stream {
 public:
  enum class kind : std::uint8_t {
    full,  ///< a whole checkpoint
    delta  ///< the change from the version before it
  };

  struct entry {
    std::uint64_t version;
    std::filesystem::path dir;
    kind what;
  };

  /// Lists the subdirectories of `dir` whose names end in digits, the version's number, and checks
  /// everything that can be checked without a base: each version's files and headers, that each has
  /// exactly the tensors of `expected` (a delta: a part of them), and that every delta's base is
  /// the version before it (number 0, the base the caller holds, for the first). A directory
  /// numbered 0 is that base and is left out. Throws `error` with a message that names the file
  /// and, where there is one, the tensor: `bad_input` if there is no version, if two have the same
  /// number, or on anything malformed; `wrong_layout` on another set of tensors; `wrong_base` on a
  /// broken chain.
  static weight_stream open(const std::filesystem::path& dir, const layout& expected);

  /// Ascending by version; never empty.
  const std::vector<entry>& versions() const noexcept { return versions_; }

  /// Turns `weights`, which hold the version before `versions()[index]` (0: the base), into exactly
  /// that version. Not a byte of `weights` changes before all that can be checked is proven,
  /// checksums included: after a throw `weights` is what it was. Throws like `open`, and
  /// `bad_input` if the bytes do not match their checksum.
  void load(std::size_t index, weight_buffer& weights) const;

 private:
  layout expected_;
  std::vector<entry> versions_;
};

/// Without an index a published version is not there yet, and what looks like a checkpoint may be
/// the shards of a delta. One exception cannot be mistaken: a lone `model.safetensors` that has all
/// tensors of `expected` (null: any tensors) and no tensor's checksum. Throws `error{bad_input}`
/// unless `dir` is that.
void require_lone_checkpoint(const std::filesystem::path& dir, const layout* expected);

/// Whether `require_lone_checkpoint` takes `dir`, with any tensors; false too where that cannot be
/// found out.
bool is_lone_checkpoint(const std::filesystem::path& dir);

/// Whether the version in `dir` is there for readers: it has an index, or needs none.
bool is_published_version(const std::filesystem::path& dir);

/// Throws `error{bad_input}` if the published version in `dir`, whose index does not call it a
/// delta, is none all the same (a tensor has a checksum), or has a shard with tensors that `index`
/// does not name.
void require_whole_version(const std::filesystem::path& dir, const checkpoint_index& index);

}  // namespace lockstep
