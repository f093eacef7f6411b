#include "transport/bulk_frame.hpp"

#include <xxhash.h>

#include <algorithm>
#include <string>

namespace lockstep {

namespace {

constexpr std::array magic{std::byte{0x4c}, std::byte{0x4b}, std::byte{0x42}};
constexpr unsigned version = 1;
constexpr std::size_t covered_bytes = bulk_header_bytes - 8;

template <class T>
std::byte* put(std::byte* at, T value) noexcept {
  auto left = std::uint64_t{value};
  for (std::size_t i = 0; i < sizeof(T); ++i, left >>= 8)
    *at++ = static_cast<std::byte>(left & 0xff);
  return at;
}

template <class T>
const std::byte* get(const std::byte* at, T& value) noexcept {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i)
    sum |= std::to_integer<std::uint64_t>(*at++) << (8 * i);
  value = static_cast<T>(sum);
  return at;
}

}  // namespace

std::array<std::byte, bulk_header_bytes> encode_bulk_header(const bulk_header& header) noexcept {
  std::array<std::byte, bulk_header_bytes> bytes;
  auto* at = std::ranges::copy(magic, bytes.data()).out;
  at = put(at, std::uint8_t{version});
  at = put(at, header.index);
  at = put(at, header.payload_bytes);
  at = put(at, header.env.cluster);
  at = put(at, header.env.txn.run);
  at = put(at, header.env.txn.seq);
  at = put(at, header.env.inc.hi);
  at = put(at, header.env.inc.lo);
  at = put(at, header.shipment);
  put(at, std::uint64_t{XXH3_64bits(bytes.data(), covered_bytes)});
  return bytes;
}

std::variant<bulk_header, failure> decode_bulk_header(
    std::span<const std::byte, bulk_header_bytes> bytes, std::uint64_t take_bytes_max) {
  if (!std::ranges::equal(bytes.first<3>(), magic))
    return failure{errc::bad_frame, "the first bytes begin no bucket's frame"};
  const auto spoken = std::to_integer<unsigned>(bytes[3]);
  if (spoken != version)
    return failure{errc::wrong_version, "the frame is of version " + std::to_string(spoken)};
  std::uint64_t checksum = 0;
  get(bytes.data() + covered_bytes, checksum);
  if (checksum != XXH3_64bits(bytes.data(), covered_bytes))
    return failure{errc::bad_checksum, "the checksum of a frame's header does not match"};
  bulk_header header;
  const auto* at = bytes.data() + 4;
  at = get(at, header.index);
  at = get(at, header.payload_bytes);
  at = get(at, header.env.cluster);
  at = get(at, header.env.txn.run);
  at = get(at, header.env.txn.seq);
  at = get(at, header.env.inc.hi);
  at = get(at, header.env.inc.lo);
  get(at, header.shipment);
  if (header.payload_bytes > take_bytes_max)
    return failure{errc::bad_manifest, "a frame promises " + std::to_string(header.payload_bytes) +
                                           " bytes, at most " + std::to_string(take_bytes_max) +
                                           " are taken"};
  return header;
}

}  // namespace lockstep
