#include "messages/transient.hpp"

#include <cerrno>

namespace lockstep {

bool is_transient(int code) noexcept {
  switch (code) {
    case ENOSPC:
    case EDQUOT:
    case ENOMEM:
    case EAGAIN:
    case EMFILE:
    case ENFILE:
    case ENOLCK:
    case EIO:
    case EREMOTEIO:
    case ESTALE:
    case ETIMEDOUT:
    case EINTR:
      return true;
    default:
      return false;
  }
}

void throw_refused(errc reason, const std::string& text, int code) {
  if (is_transient(code)) throw try_again_error(reason, text);
  throw error(reason, text);
}

}  // namespace lockstep
