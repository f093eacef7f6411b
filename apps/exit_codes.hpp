// Decides what the program's exit status means.
#pragma once

#include "actors/refused_error.hpp"
#include "messages/errors.hpp"
#include "messages/transient.hpp"

namespace lockstep {

inline constexpr int exit_ok = 0;
inline constexpr int exit_check_failed = 1;  ///< a receiver does not hold what it should
inline constexpr int exit_bad_input = 2;     ///< usage, settings or files
inline constexpr int exit_unreachable = 3;   ///< somebody does not answer
/// There was too little memory or space on a disk, a disk or a file server failed, or a file was
/// cut short or taken away while it was in use: the same may go well when it is tried again.
inline constexpr int exit_try_again = 4;
inline constexpr int exit_refused = 5;  ///< the other side has no use for this one as it is

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
    case errc::no_memory:
      return exit_try_again;
    default:
      return exit_bad_input;
  }
}

/// Of what the system said, as in `errno`, about a file.
inline int exit_code_of_system(int code) noexcept {
  return is_transient(code) ? exit_try_again : exit_bad_input;
}

inline int exit_code_of(const error& e) noexcept {
  if (is_transient(e)) return exit_try_again;
  if (dynamic_cast<const refused_error*>(&e) != nullptr) return exit_refused;
  return exit_code_of(e.code());
}

}  // namespace lockstep
