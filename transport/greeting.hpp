// Decides what the two ends of a connection tell each other before anything else, and its bytes.
//
// Each end sends one frame: the dialer its greeting, then the acceptor its answer. A frame is the
// magic ("LKG" or "LKA") and one byte of version, its length as u32, the fields, and XXH3-64 over
// all of that; numbers are little-endian, texts have a u16 length before them. Nothing follows a
// frame until it was answered, and a frame is at most `greeting_bytes_max` long.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "messages/ids.hpp"
#include "transport/failure.hpp"

namespace lockstep {

/// What a process is in the fleet.
enum class node_role : std::uint8_t {
  trainer,   ///< may be dialed, and may say what the weights are
  receiver,  ///< keeps weights
  observer,  ///< asks for states only
  last_ = observer
};

/// What a connection is for.
enum class channel_purpose : std::uint8_t {
  control,  ///< the bytes of the actors' own protocol
  bulk,     ///< frames of buckets
  last_ = bulk
};

/// "trainer", "control", …; "unknown" for a value that is no enumerator.
std::string_view to_string(node_role role) noexcept;
std::string_view to_string(channel_purpose purpose) noexcept;

/// Longest texts of a greeting and of an answer, in bytes.
inline constexpr std::size_t greeting_name_max = 256;
inline constexpr std::size_t greeting_program_max = 128;
inline constexpr std::size_t answer_detail_max = 512;
/// Longest frame of either kind.
inline constexpr std::size_t greeting_bytes_max = 4096;
/// What tells the length of a frame: its first bytes.
inline constexpr std::size_t greeting_header_bytes = 8;
/// The version of the format that this code speaks.
inline constexpr std::uint8_t greeting_version = 1;

/// Who speaks. A plain value.
struct greeting {
  std::uint64_t cluster = 0;  ///< hash of the cluster's name
  node_role role = node_role::receiver;
  channel_purpose purpose = channel_purpose::control;
  receiver_id id = 0;
  std::string name;          ///< at most `greeting_name_max` bytes, no control characters
  incarnation link;          ///< random; the channels of one link share it
  std::uint32_t stream = 0;  ///< which of the link's bulk channels this is, from 0
  std::uint64_t payload_bytes_max = 0;  ///< largest payload that the speaker takes in one bucket
  std::uint64_t control_bytes_max = 0;  ///< longest control message that the speaker takes
  std::string program;  ///< name and version, for people; at most `greeting_program_max` bytes

  friend bool operator==(const greeting&, const greeting&) = default;
};

/// What the acceptor says to a greeting.
struct greeting_answer {
  failure verdict;  ///< reason `none`: welcome
  greeting self;    ///< the acceptor's own

  bool welcome() const noexcept { return verdict.reason == errc::none; }
};

/// The frame of a greeting or an answer. Texts that are too long are cut; what is not printable in
/// them becomes '?'.
std::vector<std::byte> encode_greeting(const greeting& g);
std::vector<std::byte> encode_answer(const greeting_answer& a);

/// How long the whole frame is that begins with these bytes, header included (peer): at most
/// `greeting_bytes_max`. `bad_frame` where it is no such frame or too long, `wrong_version`
/// ("speaks version N") where only the version is another.
std::variant<std::size_t, failure> greeting_frame_bytes(
    std::span<const std::byte, greeting_header_bytes> header);
std::variant<std::size_t, failure> answer_frame_bytes(
    std::span<const std::byte, greeting_header_bytes> header);

/// What `bytes`, all of them, say (peer). Errors as above, and `bad_checksum`. Never throws but
/// `std::bad_alloc`; allocates no more than `bytes.size()` + 1 KiB. What is accepted encodes to the
/// same bytes.
std::variant<greeting, failure> decode_greeting(std::span<const std::byte> bytes);
std::variant<greeting_answer, failure> decode_answer(std::span<const std::byte> bytes);

}  // namespace lockstep
