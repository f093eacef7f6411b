// Decides under which numbers CAF knows messages, and how it would write them: as one bounded byte
// string each, in the wire's form. The one file of this folder that includes CAF; nothing outside
// actors/ and transports includes it.
#pragma once

#include <caf/binary_deserializer.hpp>
#include <caf/error.hpp>
#include <caf/sec.hpp>
#include <caf/serializer.hpp>
#include <caf/type_id.hpp>
#include <concepts>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "messages/wire.hpp"

namespace lockstep {

template <class M, class Variant>
inline constexpr bool is_alternative = false;
template <class M, class... Alternative>
inline constexpr bool is_alternative<M, std::variant<Alternative...>> =
    (std::same_as<M, Alternative> || ...);

/// One of the messages of `wire_message`.
template <class M>
concept wire_alternative = is_alternative<M, wire_message>;

/// Shows a message, or a part of one, in traces: its fields.
template <class Inspector, class M>
requires std::is_void_v<typename Inspector::result_type> && requires(M& x) {
  M::fields(x);
}
void inspect(Inspector& f, M& x) {
  std::apply(f, M::fields(x));
}

/// Shows a payload as its length.
template <class Inspector>
requires std::is_void_v<typename Inspector::result_type>
void inspect(Inspector& f, payload& x) {
  f(x.size());
}

/// Sends a message as the length and the bytes of its wire form.
template <std::derived_from<caf::serializer> Inspector, wire_alternative M>
caf::error inspect(Inspector& f, M& x) {
  auto bytes = encode_message(x);
  if (bytes.size() > wire_bytes_max) return caf::sec::invalid_argument;
  auto count = static_cast<std::uint32_t>(bytes.size());
  if (auto err = f(count)) return err;
  return f.apply_raw(bytes.size(), bytes.data());
}

/// Reads what the above wrote, without a copy between. Lengths are checked before anything is
/// allocated: CAF's own sequences do not (0.17.6). What CAF reads from the network is binary;
/// anything else could not say how many bytes there are, and is refused.
template <std::derived_from<caf::deserializer> Inspector, wire_alternative M>
caf::error inspect(Inspector& f, M& x) {
  auto* in = dynamic_cast<caf::binary_deserializer*>(&f);
  if (in == nullptr) return caf::sec::invalid_argument;
  std::uint32_t count = 0;
  if (auto err = f(count)) return err;
  if (count > wire_bytes_max) return caf::sec::invalid_argument;
  if (count > in->remaining()) return caf::sec::end_of_stream;
  const auto bytes = in->remainder();
  auto read = decode_message({reinterpret_cast<const std::byte*>(bytes.data()), count});
  in->skip(count);
  auto* m = std::get_if<wire_message>(&read);
  if (m == nullptr) return caf::sec::invalid_argument;
  auto* same = std::get_if<M>(m);
  if (same == nullptr) return caf::sec::invalid_argument;  // another kind than CAF announced
  x = std::move(*same);
  return caf::none;
}

}  // namespace lockstep

CAF_BEGIN_TYPE_ID_BLOCK(lockstep, caf::first_custom_type_id)
CAF_ADD_TYPE_ID(lockstep, (lockstep::attach_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::full_begin_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::prepare_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::bucket_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::commit_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::abort_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::redo_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::ping_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::hello_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::reply_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::credit_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::pong_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::goodbye_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::welcome_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::audit_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::audit_reply_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::observe_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::status_line_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::audit_line_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::observed_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::shard_hello_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::shard_task_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::shard_result_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::shard_ship_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::beat_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::relay_offer_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::relay_parent_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::relay_link_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::relay_ask_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::feed_line_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::relayed_line_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::shard_reach_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::shard_route_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::shard_among_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::shard_stalled_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::relay_lend_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::refused_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::failed_line_msg))
CAF_END_TYPE_ID_BLOCK(lockstep)
