// Decides what a plain reading of a peer's first words comes to, for the targets that have a port.
#pragma once

#include <cstddef>
#include <span>
#include <utility>
#include <variant>

#include "fuzz/connection.hpp"
#include "messages/errors.hpp"
#include "transport/greeting.hpp"

namespace lockstep::fuzz {

/// What all that a peer says comes to.
struct reading {
  errc verdict = errc::none;  ///< of the greeting or answer
  bool silent = false;        ///< and it is not told
  greeting said;
  std::span<const std::byte> rest;  ///< what follows that
};

/// How long the frame at the front of `all` is, which `length` knows by its first bytes; `dead`
/// where it is not all there.
template <class Length>
std::variant<std::size_t, errc> front_frame(std::span<const std::byte> all, Length length) {
  if (all.size() < greeting_header_bytes) return errc::dead;
  const auto says = length(all.first<greeting_header_bytes>());
  if (const auto* why = std::get_if<failure>(&says)) return why->reason;
  const auto size = std::get<std::size_t>(says);
  if (size > all.size()) return errc::dead;
  return size;
}

inline reading read_greeting(std::span<const std::byte> all) {
  reading out;
  const auto refused = [&](errc why, bool silent) {
    out.verdict = why;
    out.silent = silent;
    return out;
  };
  const auto frame = front_frame(all, greeting_frame_bytes);
  if (const auto* why = std::get_if<errc>(&frame))
    return refused(*why, *why != errc::wrong_version);
  const auto size = std::get<std::size_t>(frame);
  auto said = decode_greeting(all.first(size));
  if (const auto* why = std::get_if<failure>(&said))
    return refused(why->reason, why->reason != errc::wrong_version);
  out.said = std::get<greeting>(std::move(said));
  out.rest = all.subspan(size);
  if (out.said.cluster != connection_cluster) return refused(errc::wrong_cluster, false);
  if (out.said.name == unwanted_name) return refused(errc::fenced, false);
  return out;
}

/// Of whoever was dialed, who is to be an `expected`.
inline reading read_answer(std::span<const std::byte> all, node_role expected) {
  reading out;
  const auto refused = [&](errc why) {
    out.verdict = why;
    return out;
  };
  const auto frame = front_frame(all, answer_frame_bytes);
  if (const auto* why = std::get_if<errc>(&frame)) return refused(*why);
  const auto size = std::get<std::size_t>(frame);
  const auto said = decode_answer(all.first(size));
  if (const auto* why = std::get_if<failure>(&said)) return refused(why->reason);
  const auto& answer = std::get<greeting_answer>(said);
  out.said = answer.self;
  out.rest = all.subspan(size);
  if (!answer.welcome()) return refused(answer.verdict.reason);
  if (out.said.cluster != connection_cluster) return refused(errc::wrong_cluster);
  if (out.said.role != expected) return refused(errc::untrusted);
  return out;
}

}  // namespace lockstep::fuzz
