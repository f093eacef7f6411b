// Decides what becomes of a system call that a signal interrupts. Private to the library.
#pragma once

#include <cerrno>

namespace lockstep {

/// Makes `call` until something else than a signal ends it; returns what it does, -1 for a failure
/// that `errno` names. On a local disk the calls on files are not interrupted; on a network's they
/// are.
template <class Call>
auto uninterrupted(Call call) {
  auto result = call();
  while (result == -1 && errno == EINTR) result = call();
  return result;
}

}  // namespace lockstep
