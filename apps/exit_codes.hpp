// Decides what the program's exit status means.
#pragma once

#include "messages/errors.hpp"

namespace lockstep {

inline constexpr int exit_ok = 0;
inline constexpr int exit_check_failed = 1;  ///< a receiver does not hold what it should
inline constexpr int exit_bad_input = 2;     ///< usage, settings or files
inline constexpr int exit_unreachable = 3;   ///< somebody does not answer

inline int exit_code_of(errc code) noexcept {
  switch (code) {
    case errc::unreachable:
    case errc::timeout:
    case errc::dead:
      return exit_unreachable;
    case errc::false_ack:
    case errc::wrong_target:
    case errc::torn:
    case errc::gave_up:
    case errc::encode_failed:
      return exit_check_failed;
    default:
      return exit_bad_input;
  }
}

}  // namespace lockstep
