#include "messages/errors.hpp"

#include <array>

namespace lockstep {

namespace {

constexpr std::array<std::string_view, static_cast<std::size_t>(errc::last_) + 1> names{
    "none",
    "bad_checksum",
    "bad_frame",
    "bad_manifest",
    "wrong_layout",
    "false_ack",
    "wrong_base",
    "wrong_target",
    "not_staged",
    "not_serving",
    "no_memory",
    "apply_failed",
    "hook_failed",
    "encode_failed",
    "timeout",
    "dead",
    "restarted",
    "behind",
    "torn",
    "lease_expired",
    "gave_up",
    "detached",
    "too_few_members",
    "correlated_failure",
    "fenced",
    "busy",
    "shut_down",
    "bad_input",
    "unwritable",
    "bad_setting",
    "unreachable",
    "untrusted",
    "wrong_version",
    "wrong_cluster"};

}  // namespace

std::string_view to_string(errc code) noexcept {
  const auto index = static_cast<std::size_t>(code);
  return index < names.size() ? names[index] : "unknown";
}

}  // namespace lockstep
