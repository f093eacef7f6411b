// Decides the bytes that stand before a bucket's payload on a bulk channel.
//
// 72 bytes, little-endian: "LKB" and one byte of version, index u32, payload's length u64, cluster
// u64, run u64, seq u64, incarnation 2 × u64, shipment u64, XXH3-64 of all before it. The payload's
// own hash is in the manifest; here it is the length that must not lie.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>

#include "messages/to_receiver.hpp"
#include "transport/failure.hpp"

namespace lockstep {

inline constexpr std::size_t bulk_header_bytes = 72;

/// What a header says.
struct bulk_header {
  envelope env;
  std::uint32_t index = 0;
  std::uint64_t payload_bytes = 0;
  std::uint64_t shipment = 0;

  friend bool operator==(const bulk_header&, const bulk_header&) = default;
};

std::array<std::byte, bulk_header_bytes> encode_bulk_header(const bulk_header& header) noexcept;

/// Errors (peer): `bad_frame`, `wrong_version`, `bad_checksum`, and `bad_manifest` for a payload of
/// more than `take_bytes_max`.
std::variant<bulk_header, failure> decode_bulk_header(
    std::span<const std::byte, bulk_header_bytes> bytes, std::uint64_t take_bytes_max);

}  // namespace lockstep
