// Decides what a `model.safetensors.index.json` may say.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "weights/safetensors.hpp"

namespace lockstep {

inline constexpr std::string_view index_name = "model.safetensors.index.json";
inline constexpr std::string_view single_file_name = "model.safetensors";

/// The index of a sharded checkpoint or of a published delta.
struct checkpoint_index {
  std::filesystem::path path;
  /// All keys of `metadata`; a value that is not a string is left empty.
  std::map<std::string, std::string> metadata;
  /// Tensor → file beside the index; a plain name.
  std::map<std::string, std::string> weight_map;

  /// The one thing that tells a delta from an ordinary checkpoint.
  bool is_delta() const { return metadata.contains("delta_encoding"); }
  /// Shard → its tensors, ascending.
  std::map<std::string, std::vector<std::string>> shards() const;
};

/// Whether `dir` holds an index.
bool has_index(const std::filesystem::path& dir);

/// Checks the whole of `text` and returns the index that it is. `path` is where it was read from.
/// Throws `error{bad_input}` that names the file. Memory is bounded by the text's length.
checkpoint_index parse_index(std::span<const std::byte> text, const std::filesystem::path& path,
                             const file_limits& limits = {});

/// Reads and checks `dir`'s index. Throws `error{bad_input}` that names the file.
checkpoint_index read_index(const std::filesystem::path& dir, const file_limits& limits = {});

/// The value of a key in the `metadata` of `dir`'s index; empty if it is not there. Throws as
/// `read_index` does.
std::string metadata_in(const std::filesystem::path& dir, std::string_view key);

}  // namespace lockstep
