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
  errc verdict = errc::none;  ///< of the greeting
  bool silent = false;        ///< and it is not told
  greeting said;
  std::span<const std::byte> rest;  ///< what follows the greeting
};

inline reading read_greeting(std::span<const std::byte> all) {
  reading out;
  const auto refused = [&](errc why, bool silent) {
    out.verdict = why;
    out.silent = silent;
    return out;
  };
  if (all.size() < greeting_header_bytes) return refused(errc::dead, true);
  const auto length = greeting_frame_bytes(all.first<greeting_header_bytes>());
  if (const auto* why = std::get_if<failure>(&length))
    return refused(why->reason, why->reason == errc::bad_frame);
  const auto size = std::get<std::size_t>(length);
  if (size > all.size()) return refused(errc::dead, true);
  auto said = decode_greeting(all.first(size));
  if (const auto* why = std::get_if<failure>(&said))
    return refused(why->reason, why->reason != errc::wrong_version);
  out.said = std::get<greeting>(std::move(said));
  out.rest = all.subspan(size);
  if (out.said.cluster != connection_cluster) return refused(errc::wrong_cluster, false);
  if (out.said.name == unwanted_name) return refused(errc::fenced, false);
  return out;
}

}  // namespace lockstep::fuzz
