// Decides how lists travel packed inside of messages: of a trainer's ranks, and of audits.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "messages/ids.hpp"
#include "messages/payload.hpp"
#include "protocol/fanout.hpp"

namespace lockstep {

/// From whom a receiver has each stripe, as in `shard_route_msg`.
payload packed_route(const std::vector<fanout_plan::place>& from);
/// Nothing if the bytes are no route, or one of more stripes than there can be.
std::optional<std::vector<fanout_plan::place>> unpacked_route(const payload& bytes);

/// Receivers, ascending, as in `shard_among_msg`.
payload packed_ids(const std::vector<receiver_id>& ids);
/// Nothing if the bytes are not whole numbers, ascending.
std::optional<std::vector<receiver_id>> unpacked_ids(const payload& bytes);

/// Digests of tensors, as in `audit_reply_msg` and `shard_result_msg`.
inline constexpr std::size_t packed_digest_bytes = 16;
payload packed_digests(const std::vector<digest>& digests);
/// Nothing if the bytes are not whole digests.
std::optional<std::vector<digest>> unpacked_digests(const payload& bytes);

}  // namespace lockstep
