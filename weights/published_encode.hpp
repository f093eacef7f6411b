// Decides how the change of one tensor becomes a part of a published delta.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "weights/published.hpp"

namespace lockstep {

/// The digests of a part's new bytes, and of its old ones.
struct part_digests {
  std::string checksum;  ///< in the delta's format
  std::string xxh3;      ///< XXH3-128
  std::string base;      ///< XXH3-128 of the old bytes, if it was asked for
};

/// Appends to `out` what leads from `base` to `target`, of the same length, in elements `unit`
/// bytes wide. `spill` is called between windows and may take what `out` holds and empty it, so
/// that memory need not grow with the tensor. `with_base`: whether the old bytes' digest is wanted.
part_digests encode_part(published_encoding encoding, published_checksum checksum,
                         std::uint32_t unit, std::span<const std::byte> base,
                         std::span<const std::byte> target, std::vector<std::byte>& out,
                         const std::function<void(std::uint64_t)>& spill, bool with_base = false);

}  // namespace lockstep
