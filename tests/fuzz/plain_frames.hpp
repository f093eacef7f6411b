// Decides what a plain reading of a bulk channel's bytes comes to, for the targets that open one.
#pragma once

#include <xxhash.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "fuzz/connection.hpp"
#include "messages/errors.hpp"
#include "messages/to_receiver.hpp"
#include "transport/bulk_frame.hpp"

namespace lockstep::fuzz {

/// A bucket as it came, or must come.
struct delivery {
  bucket_msg bucket;
  std::uint64_t shipment = 0;

  bool operator==(const delivery&) const = default;
};

template <class T>
T number_at(std::span<const std::byte> from, std::size_t at) {
  T out{};
  std::memcpy(&out, from.data() + at, sizeof out);
  return out;
}

/// The frames at the front of `rest`, which are taken from it, and why there are no more.
inline std::vector<delivery> read_frames(std::span<const std::byte>& rest, errc& why) {
  constexpr std::size_t checked = bulk_header_bytes - 8;
  std::vector<delivery> out;
  for (;;) {
    why = errc::dead;
    if (rest.size() < bulk_header_bytes) return out;
    why = errc::bad_frame;
    if (std::memcmp(rest.data(), "LKB", 3) != 0) return out;
    why = errc::wrong_version;
    if (rest[3] != std::byte{1}) return out;
    why = errc::bad_checksum;
    if (number_at<std::uint64_t>(rest, checked) != XXH3_64bits(rest.data(), checked)) return out;
    const auto size = number_at<std::uint64_t>(rest, 8);
    why = errc::bad_manifest;
    if (size > connection_payload_max) return out;
    why = errc::dead;
    if (size > rest.size() - bulk_header_bytes) return out;
    const auto body = rest.subspan(bulk_header_bytes, size);
    const auto u64 = [&](std::size_t at) { return number_at<std::uint64_t>(rest, at); };
    out.push_back({{{u64(16), {u64(24), u64(32)}, {u64(40), u64(48)}},
                    number_at<std::uint32_t>(rest, 4),
                    payload(std::vector<std::byte>(body.begin(), body.end()))},
                   u64(56)});
    rest = rest.subspan(bulk_header_bytes + size);
  }
}

}  // namespace lockstep::fuzz
