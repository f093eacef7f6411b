#include "weights/unwritable.hpp"

#include <cerrno>
#include <system_error>

#include "messages/one_line.hpp"

namespace lockstep {

void refuse_write(const std::filesystem::path& file, const std::string& what, int code) {
  const auto text =
      one_line(file.native()) + ": " + what + ": " + std::generic_category().message(code);
  if (code == ENOSPC || code == EDQUOT) throw try_again_error(errc::unwritable, text);
  throw error(errc::unwritable, text);
}

}  // namespace lockstep
