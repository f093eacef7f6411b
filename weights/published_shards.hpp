// Decides which shards a version has, how they are written, and how its index publishes them.
// Private to weights/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "weights/published.hpp"

namespace lockstep {

struct checkpoint_index;
struct safetensors_header;

/// A version's directory under way: shards first, the index last, since it is what publishes.
class publication {
 public:
  /// Makes the directory, and removes what an attempt that died has left in it. Throws
  /// `error{unwritable}` if the version is published already.
  publication(const std::filesystem::path& stream, std::uint64_t version);

  /// Where shard `number` of `count`, with these tensors, is to be written.
  std::filesystem::path add_shard(std::size_t number, std::size_t count,
                                  const std::vector<std::string>& names);
  /// Copies a file that stands beside the tensors. Throws `error`.
  void add_companion(const std::filesystem::path& file) const;
  /// Returns the length of the index in bytes. Throws `error`.
  std::uint64_t publish(nlohmann::ordered_json metadata,
                        const std::map<std::string, std::string>& extra);
  const std::filesystem::path& dir() const noexcept { return dir_; }

 private:
  void remove_leftovers();

  std::filesystem::path dir_;
  std::map<std::string, std::string> weight_map_;
};

/// The shards of one version, or of what one of its writers holds of it. Borrows all that it is
/// made from.
class version_shards {
 public:
  /// A delta's: both states are read to find what changed. `dir` is for messages. Throws
  /// `error{wrong_layout}`.
  version_shards(const std::filesystem::path& dir, const layout& shape, const tensor_reader& base,
                 const tensor_reader& target, const publish_options& options);
  /// A full version's: all tensors.
  version_shards(const layout& shape, const tensor_reader& target, const publish_options& options);

  std::size_t count() const noexcept { return groups_.size(); }
  /// The tensors of a shard, ascending.
  std::vector<std::string> names(std::size_t shard) const;
  /// Writes a shard, durably; returns how many bytes of it count as the version's: of a delta the
  /// file's, of a full version the tensors'. Throws `error`.
  std::uint64_t write(std::size_t shard, const std::filesystem::path& file);
  /// After all have been written: makes `publish_options::digests`, if given, the target's. Returns
  /// the base's; of a full version none.
  const std::vector<std::string>& finish();

 private:
  const layout& shape_;
  const tensor_reader* base_;  // of a full version none
  const tensor_reader& target_;
  const publish_options& options_;
  std::vector<std::string> base_digests_;
  std::vector<std::vector<std::size_t>> groups_;
};

/// Throws `error{bad_input}` if the version or its options cannot be written.
void require_publishable(const std::filesystem::path& dir, std::uint64_t version,
                         const publish_options& options);
/// The same of the base's version.
void require_earlier(const std::filesystem::path& dir, std::uint64_t version,
                     std::uint64_t base_version);

/// The format's own keys of an index's `metadata`, without digests.
nlohmann::ordered_json delta_metadata(std::uint64_t version, std::uint64_t base_version,
                                      const publish_options& options);
nlohmann::ordered_json full_metadata(std::uint64_t version, std::uint64_t total_bytes);

/// Throws `error{bad_input}` if a shard in a version's directory that its index does not name holds
/// tensors: nobody would apply them.
void refuse_strays(const std::filesystem::path& dir, const checkpoint_index& index);

/// Whether `text` is spelled as a digest of this format is.
bool is_digest(published_checksum format, std::string_view text);
/// Throws `error{bad_input}` unless every tensor of the shard of a delta at `path` is a compressed
/// part with a checksum.
void require_compressed(const safetensors_header& shard, const std::filesystem::path& path,
                        published_checksum checksum);

}  // namespace lockstep
