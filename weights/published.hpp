// Decides how one version of a published-directory stream is read and written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "messages/layout.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep {

class byte_source;
class plain_file;
struct checkpoint_index;

/// How a changed tensor's new bytes are written down. docs/files.md has the bytes.
enum class published_encoding : std::uint8_t {
  xored,      ///< "xor": as many bytes as the tensor has, new xor old
  overwrite,  ///< "overwrite": positions and new values of the changed bytes
  coded       ///< "lockstep-coded": frames of docs/wire-format.md; only we read it
};

/// What proves a tensor's new, whole, uncompressed bytes. "blake3" is refused by name.
enum class published_checksum : std::uint8_t {
  xxh3_128,  ///< "xxh3-128"
  adler32    ///< "adler32"
};

/// The names of both in an index.
std::string_view to_string(published_encoding encoding) noexcept;
std::string_view to_string(published_checksum format) noexcept;

/// Keys of our own in an index's metadata; readers of others skip them.
namespace own_key {
inline constexpr std::string_view run = "lockstep_run";               ///< which training wrote it
inline constexpr std::string_view base = "lockstep_base_digest";      ///< of all tensors before
inline constexpr std::string_view target = "lockstep_target_digest";  ///< and after
/// What an acknowledgement is proven under: 16 hexadecimal digits.
inline constexpr std::string_view challenge = "lockstep_challenge";
/// Of a version with a challenge that ranks have written, none of which has all tensors: `seal_of`
/// of the proof.
inline constexpr std::string_view proof_seal = "lockstep_proof_seal";
/// Of a full version that changes no weights: whom it is for, names with commas between them. All
/// others hold what it holds.
inline constexpr std::string_view meant_for = "lockstep_meant_for";
}  // namespace own_key

/// Largest tensor in bytes that "overwrite" can carry: positions and their count are 32 bits wide.
inline constexpr std::uint64_t overwrite_bytes_max = 0xffff'ffff;

/// Lower-case hexadecimal digest of `bytes` as it stands in a published shard.
std::string published_digest(published_checksum format, std::span<const std::byte> bytes);

/// One published delta on disk: its index and its shards, open but not mapped.
///
/// Thread-safe: all members are const after `open`.
class published_delta {
 public:
  /// Opens the delta in `dir` and checks all that can be checked without its base: the index, that
  /// every mapped shard is there and holds exactly the tensors mapped to it, that no other shard
  /// holds a tensor, that every tensor is in `expected` and has a checksum. Throws
  /// `error{bad_input}` or `error{wrong_layout}` whose message names the file and, where there is
  /// one, the tensor.
  static published_delta open(const std::filesystem::path& dir, const layout& expected);

  std::uint64_t version() const noexcept { return version_; }
  std::uint64_t base_version() const noexcept { return base_version_; }
  published_encoding encoding() const noexcept { return encoding_; }
  published_checksum checksum() const noexcept { return checksum_; }
  /// The index's `metadata`, keys that are not the format's own included.
  const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }

  /// Number of tensors the delta carries, and the canonical index of each, ascending.
  std::size_t count() const noexcept { return parts_.size(); }
  std::size_t tensor(std::size_t index) const { return parts_[index].tensor; }
  /// Size of the compressed parts in bytes.
  std::uint64_t compressed_bytes() const noexcept;
  std::uint64_t compressed_bytes(std::size_t index) const { return parts_[index].bytes; }
  /// A part as it lies in its shard: for part_stream. Valid while any copy of this lives.
  byte_source compressed(std::size_t index) const;
  /// How far decoding looks back at most, in bytes, as the parts' frames say: 0 for coded ones.
  /// Throws `error{bad_input}` where a part cannot be read.
  std::uint64_t look_back_bytes() const;
  /// The checksum that its tensor's new bytes must have.
  const std::string& digest(std::size_t index) const { return parts_[index].digest; }
  /// The shard that holds it.
  const std::filesystem::path& file(std::size_t index) const;

  /// Turns `weights` from the base's bytes into the version's. Every tensor is decoded beside the
  /// live ones and its checksum compared before the first live byte changes: after a throw
  /// `weights` is what it was. Needs memory for another copy of the changed tensors. `weights` must
  /// have the layout given to `open`, else `error{wrong_layout}`. A checksum that does not match is
  /// `error{bad_input}`: the file is damaged, or `weights` is not the base.
  void apply(weight_buffer& weights) const;

 private:
  struct part {
    std::size_t tensor;
    std::size_t file;
    std::uint64_t offset;  // in the file
    std::uint64_t bytes;
    std::string digest;
  };

  void read_metadata(const checkpoint_index& index);
  void add_shard(const std::filesystem::path& file, const std::vector<std::string>& mapped);
  std::unique_ptr<std::byte[]> decode(const part& p, std::span<const std::byte> old) const;

  std::uint64_t version_ = 0;
  std::uint64_t base_version_ = 0;
  published_encoding encoding_ = published_encoding::xored;
  published_checksum checksum_ = published_checksum::xxh3_128;
  std::map<std::string, std::string> metadata_;
  layout shape_;
  std::vector<part> parts_;
  std::vector<std::shared_ptr<const plain_file>> files_;
};

/// How to write a version.
struct publish_options {
  published_encoding encoding = published_encoding::xored;
  published_checksum checksum = published_checksum::xxh3_128;
  /// A shard is closed when its tensors reach this many uncompressed bytes.
  std::uint64_t shard_bytes_max = 4ull << 30;
  /// Further keys of the index's `metadata`. May not be one of the format's own.
  std::map<std::string, std::string> metadata;
  /// If given: XXH3-128 of each of the base's tensors (32 hexadecimal digits, or empty where it is
  /// not known; none at all for a full version's), made the target's in place. Then own_key::base
  /// and own_key::target are written.
  std::vector<std::string>* digests = nullptr;
  /// Files that a full version holds beside the tensors: copied into it.
  std::vector<std::filesystem::path> companions;
  /// Told that bytes [begin, end) of a tensor of base and target have been read, for now. May be
  /// empty; on any thread.
  std::function<void(std::size_t tensor, std::uint64_t begin, std::uint64_t end)> done;
};

/// Where version `version` of `stream` stands: `stream/weight_v000007`.
std::filesystem::path published_dir(const std::filesystem::path& stream, std::uint64_t version);

/// Publishes the change from `base` to `target`, both of layout `shape`, as version `version` of
/// `stream`; everything is durable before the index is written. Tensors that did not change are
/// left out. On several threads; the bytes are the same on however many. Returns how many bytes
/// stand in the version's files. Throws `error{unwritable}` if a file cannot be written or the
/// version is already published, `error{wrong_layout}` if a tensor is too large for "overwrite"
/// (nothing is written then).
std::uint64_t publish_delta(const std::filesystem::path& stream, std::uint64_t version,
                            std::uint64_t base_version, const layout& shape,
                            const tensor_reader& base, const tensor_reader& target,
                            const publish_options& options = {});

/// Publishes all of `source` as version `version`, an ordinary checkpoint with an index: it resets
/// the chain. Of `options`, encoding and checksum do not count. Returns how many bytes of tensors.
std::uint64_t publish_full(const std::filesystem::path& stream, std::uint64_t version,
                           const layout& shape, const tensor_reader& source,
                           const publish_options& options = {});

}  // namespace lockstep
