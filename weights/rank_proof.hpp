// Decides how the ranks of a trainer come to what a host must prove that has the tensors of all of
// them. Private to weights/.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "messages/ids.hpp"
#include "weights/publisher.hpp"
#include "weights/rank_part.hpp"

namespace lockstep {

/// What rank 0 asks another rank for once it has the parts of all: the digest of some tensors under
/// a challenge, in which each counts by its number in the whole model, which no rank knows before.
struct rank_order {
  std::string part;  ///< target_digest of the part that it is about
  std::uint64_t challenge = 0;
  /// For each tensor of the part: its number, below `file_limits::entry_count_max` and above those
  /// before it; nothing where an earlier rank has it as well.
  std::vector<std::optional<std::uint32_t>> numbers;

  friend bool operator==(const rank_order&, const rank_order&) = default;
};

/// One for each of `parts`, of which `whole` was made.
std::vector<rank_order> orders_for(const std::vector<rank_part>& parts, const whole_state& whole,
                                   std::uint64_t challenge);

/// Appears in `staging` whole or not at all. Throws `error{unwritable}`.
void write_order(const std::filesystem::path& staging, std::string_view nonce, std::uint32_t rank,
                 const rank_order& order);
/// Nothing if there is none, or it cannot be read: it is going.
std::optional<rank_order> read_order(const std::filesystem::path& staging, std::string_view nonce,
                                     std::uint32_t rank);
/// Removes all orders, which nobody need follow any more. Throws `error`.
void clear_orders(const std::filesystem::path& staging);

/// The share of the rank's tensors in the proof of the whole. Reads all of them. `order.numbers`
/// has as many entries as `own` has tensors.
digest share_of(const rank_order& order, const published_source& own);

/// What the names of all shares of one rank for one plan begin with.
std::string share_prefix(std::uint32_t rank, std::string_view nonce);
/// Writes a share to `file`, whole or not at all. Throws `error{unwritable}`.
void write_share(const std::filesystem::path& file, const digest& share);
/// Throws `error{bad_input}` on what is none.
digest read_share(const std::filesystem::path& file);

}  // namespace lockstep
