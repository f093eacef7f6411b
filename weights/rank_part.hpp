// Decides what the ranks of a trainer tell each other about the version that they write together.
// Private to weights/.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "weights/published.hpp"

namespace lockstep {

/// What rank 0 asks all ranks for.
struct rank_plan {
  std::string nonce;  ///< 16 hexadecimal digits: of this attempt at this version, and no other
  std::uint64_t version = 0;
  std::uint64_t base_version = 0;
  std::string run;
  bool full = false;
  published_encoding encoding = published_encoding::xored;
  published_checksum checksum = published_checksum::xxh3_128;
  std::uint32_t ranks = 1;
};

/// 16 hexadecimal digits that nobody has drawn before.
std::string fresh_nonce();

/// Appears in `staging`, which must be there, whole or not at all. Throws `error{unwritable}`.
void write_plan(const std::filesystem::path& staging, const rank_plan& plan);
/// Makes `rank_staging` of `stream` anew with a plan in it, as a whole, so that nobody sees it
/// without its plan, or can take it for left over. Throws `error{unwritable}`.
void begin_staging(const std::filesystem::path& stream, const rank_plan& plan);
/// Nothing if there is none. Throws `error{bad_input}` on one that cannot be read.
std::optional<rank_plan> read_plan(const std::filesystem::path& staging);

/// One tensor of a rank.
struct rank_tensor {
  tensor_spec spec;
  std::string base;    ///< XXH3-128, 32 hexadecimal digits; empty in a full version
  std::string target;  ///< the same of what is published

  friend bool operator==(const rank_tensor&, const rank_tensor&) = default;
};

/// One shard of a rank: a file beside its part, and the tensors in it, ascending.
struct rank_shard {
  std::string file;
  std::vector<std::string> tensors;
};

/// What one rank has to a version: all of its tensors, and the shards that it wrote.
struct rank_part {
  std::string plan;  ///< the plan's nonce
  std::uint32_t rank = 0;
  std::vector<rank_tensor> tensors;  ///< ascending by name
  std::vector<rank_shard> shards;
};

/// What the names of all files of one rank for one plan begin with.
std::string rank_prefix(std::uint32_t rank, std::string_view nonce);

/// Longest part in bytes, and most tensors and extents of one.
inline constexpr std::size_t part_bytes_max = 64u << 20;

/// Writes `file`, whole or not at all. Throws `error`.
void write_part(const std::filesystem::path& file, const rank_part& part);

/// Reads the part of `rank` to `plan` from `file`, and looks at its shards, beside it: nothing in
/// any of them is believed. Throws `error{bad_input}` unless it quotes the plan and the rank, its
/// digests are well formed, the shards are regular files of this rank and plan that hold exactly
/// the tensors they should, and these are just those that the version must carry.
/// `error{wrong_layout}` for tensors that cannot be. The message names the file.
rank_part read_part(const std::filesystem::path& file, const rank_plan& plan, std::uint32_t rank);

/// The parts of all ranks as one.
struct whole_state {
  layout shape;
  std::vector<std::string> base;    ///< digest of each tensor, in the order of `shape`
  std::vector<std::string> target;  ///< the same
  /// Of each part, the tensors that an earlier one has as well, ascending: tied, or replicated.
  std::vector<std::vector<std::string>> repeated;
};

/// `parts`: one for each rank, ascending. Of tensors that several ranks have the first one's
/// counts. Throws `error{wrong_layout}` that names the tensor and both ranks if they are not the
/// same in dtype, shape and digests; `dir` is for the message.
whole_state merge_parts(const std::filesystem::path& dir, const std::vector<rank_part>& parts);

/// Throws `error{wrong_layout}` that names the tensor unless both are the same; `dir` is for the
/// message.
void require_same(const std::filesystem::path& dir, const layout& before, const layout& now);

/// Writes the shard `to`, with those of the tensors in the shard `from` that `names` (ascending)
/// has: readers refuse a shard with a tensor that the index maps to another. Throws `error`.
void copy_tensors(const std::filesystem::path& from, const std::filesystem::path& to,
                  const std::vector<std::string>& names);

/// Why rank 0 does not publish what a plan asked for, whoever takes part.
struct rank_refusal {
  std::string plan;  ///< the plan's nonce
  std::string why;   ///< one line
};

/// Takes the plan's place in `staging`. Throws `error{unwritable}`.
void write_refusal(const std::filesystem::path& staging, const rank_refusal& what);
/// Nothing if there is none, or it cannot be read.
std::optional<rank_refusal> read_refusal(const std::filesystem::path& staging);
/// Removes the refusal of a plan, and `staging` with it, once nothing else is in it.
void clear_refusal(const std::filesystem::path& staging);

/// What an index says of each rank's tensors (own_key::rank_targets), one digest for each of
/// `ranks`; none if it speaks of another number of ranks, or of none.
std::vector<std::string> rank_digests(std::string_view said, std::uint32_t ranks);

/// state_digest of a rank's own tensors before and after.
std::string base_digest(const rank_part& part);
std::string target_digest(const rank_part& part);

}  // namespace lockstep
