#include "messages/from_receiver.hpp"

#include <array>

namespace lockstep {

std::string_view to_string(receiver_phase phase) noexcept {
  constexpr std::array<std::string_view, 5> names{"empty", "serving", "applying", "reseeding",
                                                  "torn"};
  const auto index = static_cast<std::size_t>(phase);
  return index < names.size() ? names[index] : "unknown";
}

std::string_view to_string(reply_kind kind) noexcept {
  constexpr std::array<std::string_view, 8> names{"attached", "need_full", "full_ok", "full_fail",
                                                  "vote_yes", "vote_no",   "ack",     "nack"};
  const auto index = static_cast<std::size_t>(kind);
  return index < names.size() ? names[index] : "unknown";
}

}  // namespace lockstep
