// Decides what the bytes of the target `connection` begin with, and who listens there.
#pragma once

#include <cstddef>
#include <cstdint>

#include "transport/greeting.hpp"

namespace lockstep::fuzz {

/// Of the first byte: how the peer speaks.
enum class peer_kind : std::uint8_t {
  clear,     ///< as the one that listens, which checks nobody
  stranger,  ///< in clear, to one that wants a shared key
  knows,     ///< with the shared key
  guesses,   ///< with another one
};
inline constexpr unsigned peer_kinds = 4;
/// With all of these bits the peer stays, and says nothing more.
inline constexpr unsigned peer_stays = 0x70;
/// With these, one that knows the key says what comes after its greeting past TLS.
inline constexpr unsigned peer_breaks = 0x88;
/// With these it does not listen for a while, though it is answered.
inline constexpr unsigned peer_deaf = 0x84;
/// The second byte: how many bytes come at a time; 0: all at once.
inline constexpr std::size_t connection_head_bytes = 2;

inline constexpr std::uint64_t connection_cluster = 7;
inline constexpr std::uint64_t connection_payload_max = 8192;
/// A name that is not let in.
inline constexpr const char* unwanted_name = "unwanted";
/// And one whose control channel is closed as soon as it is there.
inline constexpr const char* brief_name = "brief";

/// Who listens.
inline greeting listener_greeting() {
  greeting g;
  g.cluster = connection_cluster;
  g.role = node_role::trainer;
  g.name = "trainer";
  g.payload_bytes_max = connection_payload_max;
  g.program = "fuzz";
  return g;
}

}  // namespace lockstep::fuzz
