#include "weights/unwritable.hpp"

#include <cerrno>
#include <system_error>

#include "messages/one_line.hpp"

namespace lockstep {

namespace {

[[noreturn]] void refuse_call(errc reason, const std::filesystem::path& file,
                              const std::string& what, int code) {
  const auto text =
      one_line(file.native()) + ": " + what + ": " + std::generic_category().message(code);
  if (is_transient(code)) throw try_again_error(reason, text);
  throw error(reason, text);
}

}  // namespace

bool is_transient(int code) noexcept {
  switch (code) {
    case ENOSPC:
    case EDQUOT:
    case ENOMEM:
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

void refuse_write(const std::filesystem::path& file, const std::string& what, int code) {
  refuse_call(errc::unwritable, file, what, code);
}

void refuse_read(const std::filesystem::path& file, const std::string& what, int code) {
  refuse_call(errc::bad_input, file, what, code);
}

}  // namespace lockstep
