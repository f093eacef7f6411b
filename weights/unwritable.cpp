#include "weights/unwritable.hpp"

#include <system_error>

#include "messages/one_line.hpp"

namespace lockstep {

namespace {

[[noreturn]] void refuse_call(errc reason, const std::filesystem::path& file,
                              const std::string& what, int code) {
  throw_refused(
      reason, one_line(file.native()) + ": " + what + ": " + std::generic_category().message(code),
      code);
}

}  // namespace

void refuse_write(const std::filesystem::path& file, const std::string& what, int code) {
  refuse_call(errc::unwritable, file, what, code);
}

void refuse_read(const std::filesystem::path& file, const std::string& what, int code) {
  refuse_call(errc::bad_input, file, what, code);
}

}  // namespace lockstep
