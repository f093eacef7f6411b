// Decides how a control message becomes bytes and comes back: bounded, checksummed, versioned. The
// one form in which messages cross from one process to another, and what simulators and fuzzers
// feed to the receiving side. docs/wire-messages.md has the bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "messages/errors.hpp"
#include "messages/from_receiver.hpp"
#include "messages/observer.hpp"
#include "messages/payload.hpp"
#include "messages/relays.hpp"
#include "messages/shards.hpp"
#include "messages/to_receiver.hpp"

namespace lockstep {

/// One message between the trainer's side and a receiver or an observer. The order is the wire's
/// numbering.
using wire_message =
    std::variant<hello_msg, ping_msg, pong_msg, goodbye_msg, attach_msg, full_begin_msg,
                 prepare_msg, bucket_msg, commit_msg, abort_msg, redo_msg, reply_msg, credit_msg,
                 welcome_msg, audit_msg, audit_reply_msg, observe_msg, status_line_msg,
                 audit_line_msg, observed_msg, shard_hello_msg, shard_task_msg, shard_result_msg,
                 shard_ship_msg, beat_msg, relay_offer_msg, relay_parent_msg, relay_link_msg,
                 relay_ask_msg, feed_line_msg, relayed_line_msg, shard_reach_msg, shard_route_msg,
                 shard_among_msg, shard_stalled_msg, relay_lend_msg, refused_msg, failed_line_msg>;

/// "hello", "ping", …: as in docs/protocol.md.
std::string_view name_of(const wire_message& m) noexcept;

/// Why bytes are not a message (peer): `bad_checksum`, or `bad_manifest` for a size above the
/// limits, or `bad_frame` for the rest. `detail` is one line for people.
struct wire_failure {
  errc reason = errc::bad_frame;
  std::string detail;
};

/// What a decoder accepts of one message. Whatever is announced above them is refused before
/// anything is allocated for it.
struct wire_limits {
  std::uint64_t payload_bytes_max = lockstep::payload_bytes_max;  ///< of one bucket
  std::uint64_t buckets_max = 1'048'576;                          ///< of one manifest
};

/// A bucket's size and hash in a manifest, in bytes.
inline constexpr std::size_t bucket_info_bytes = 24;
/// What surrounds every message's fields, in bytes.
inline constexpr std::size_t wire_header_bytes = 16;
inline constexpr std::size_t wire_checksum_bytes = 16;
/// No message within the default limits is longer: a bucket's or a manifest's bytes and the rest.
inline constexpr std::uint64_t wire_bytes_max = payload_bytes_max + 1024;

/// The bytes of `m`, complete with header and checksum. A `detail` or `name` above its bound is
/// cut. Payloads and manifests are not: keep them within the reader's limits.
std::vector<std::byte> encode_message(const wire_message& m);

/// The message that `bytes`, all of them, are. Never throws but `std::bad_alloc`; allocates at most
/// `bytes.size()` + 1 KiB; writes nothing but the result. For every accepted `bytes`,
/// `encode_message` of the result gives `bytes` again.
std::variant<wire_message, wire_failure> decode_message(std::span<const std::byte> bytes,
                                                        const wire_limits& limits = {});

/// How long the message is that starts with `bytes`, by what its header says, header and checksum
/// included; 0 if no message starts like that; nothing if that cannot be told from so few bytes.
std::optional<std::uint64_t> announced_bytes(std::span<const std::byte> bytes) noexcept;

}  // namespace lockstep
