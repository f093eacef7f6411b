// Decides what is said where a file cannot be written, and when trying again may help.
#pragma once

#include <filesystem>
#include <string>

#include "messages/errors.hpp"

namespace lockstep {

/// What is `unwritable` now may not be when it is tried again: a disk or a quota is full, or a file
/// was taken away.
class try_again_error : public error {
 public:
  using error::error;
};

/// Throws `error{unwritable}`, or the `try_again_error` among them, with the message
/// `<file>: <what>: <why>`; `code`: what the system said, as in `errno`.
[[noreturn]] void refuse_write(const std::filesystem::path& file, const std::string& what,
                               int code);

}  // namespace lockstep
