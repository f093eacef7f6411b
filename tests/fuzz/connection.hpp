// Decides what the bytes of the targets `connection` and `dial` begin with, and who listens or
// dials.
#pragma once

#include <cstddef>
#include <cstdint>

#include "transport/greeting.hpp"

namespace lockstep::fuzz {

/// Of the first byte: how the peer speaks.
enum class peer_kind : std::uint8_t {
  clear,     ///< as the other side, which checks nobody
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

/// Of `dial`: with certificates. One that knows has one of the dialer's own authority, a trainer's;
/// one that guesses shows it to a dialer that wants the key.
inline constexpr unsigned peer_certified = 0x04;
/// There is a third byte of it: a bulk channel is wanted, not a control channel.
inline constexpr unsigned dial_bulk = 0x01;
/// A receiver is wanted, not a trainer.
inline constexpr unsigned dial_receiver = 0x02;
/// With all of these bits, who was dialed hangs up with what it says: what is on its way is
/// dropped.
inline constexpr unsigned dial_slams = 0x0c;
/// The upper half of that byte: who is dialed; by number, but for these.
enum class dial_place : std::uint8_t {
  name = 0xd,       ///< by name
  elsewhere = 0xe,  ///< in clear, on another machine
  nobody = 0xf      ///< where nobody listens
};
inline constexpr std::size_t dial_head_bytes = 3;

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

/// Who dials.
inline greeting dialer_greeting(channel_purpose purpose) {
  greeting g;
  g.cluster = connection_cluster;
  g.purpose = purpose;
  g.id = 3;
  g.name = "the dialer's own name";
  g.link = {1, 2};
  g.stream = 1;
  g.payload_bytes_max = connection_payload_max;
  g.program = "fuzz";
  return g;
}

}  // namespace lockstep::fuzz
