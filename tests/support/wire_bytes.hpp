// Decides how tests damage the bytes of a message, and how a liar makes its checksum right again.
#pragma once

#include <xxhash.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "messages/wire.hpp"

namespace lockstep {

/// One bucket's entry in a manifest.
inline constexpr std::size_t bucket_bytes = 24;

inline std::vector<std::byte>::const_iterator at(const std::vector<std::byte>& data,
                                                 std::size_t index) {
  return data.begin() + static_cast<std::ptrdiff_t>(index);
}

inline std::vector<std::byte> flipped(std::vector<std::byte> data, std::size_t bit) {
  data[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
  return data;
}

inline void put_number(std::vector<std::byte>& data, std::size_t from, std::uint64_t value) {
  for (std::size_t i = 0; i < 8; ++i)
    data[from + i] = static_cast<std::byte>(value >> 8 * i & 0xff);
}

/// The same, with the checksum that belongs to it.
inline std::vector<std::byte> sealed(std::vector<std::byte> data) {
  const auto covered = data.size() - wire_checksum_bytes;
  const auto hash = XXH3_128bits(data.data(), covered);
  put_number(data, covered, hash.high64);
  put_number(data, covered + 8, hash.low64);
  return data;
}

/// Calls `visit(altered, bit)` for every bit behind the header that leaves a message when it is
/// flipped beneath the checksum; returns how many do.
template <class M, class Visit>
std::size_t for_each_altered(const M& said, Visit visit) {
  const auto whole = encode_message(said);
  std::size_t count = 0;
  for (std::size_t bit = wire_header_bytes * 8; bit < (whole.size() - wire_checksum_bytes) * 8;
       ++bit) {
    const auto read = decode_message(sealed(flipped(whole, bit)));
    const auto* altered = std::get_if<wire_message>(&read);
    if (altered == nullptr) continue;
    ++count;
    visit(*altered, bit);
  }
  return count;
}

/// The same, announcing the length that it has.
inline std::vector<std::byte> resize_announced(std::vector<std::byte> data) {
  put_number(data, 8, data.size() - wire_header_bytes - wire_checksum_bytes);
  return data;
}

/// The same with a body of `length` bytes, cut or filled up with zeros, announced and sealed.
inline std::vector<std::byte> resized(std::vector<std::byte> data, std::size_t length) {
  data.resize(data.size() - wire_checksum_bytes);
  data.resize(wire_header_bytes + length + wire_checksum_bytes);
  return sealed(resize_announced(std::move(data)));
}

/// In hexadecimal, eight to a line.
inline std::string shown(const std::vector<std::byte>& data) {
  constexpr char digits[] = "0123456789abcdef";
  std::string out;
  for (std::size_t i = 0; i < data.size(); ++i) {
    const auto value = std::to_integer<unsigned>(data[i]);
    out += {digits[value >> 4], digits[value & 15], i % 8 == 7 ? '\n' : ' '};
  }
  return out;
}

}  // namespace lockstep
