// Decides what is said where a file cannot be written, and when trying again may help.
#pragma once

#include <filesystem>
#include <string>

#include "messages/errors.hpp"

namespace lockstep {

/// A disk or a quota is full: what is `unwritable` now may not be when it is tried again.
class no_space_error : public error {
 public:
  using error::error;
};

/// Throws `error{unwritable}`, or the `no_space_error` among them, with the message
/// `<file>: <what>: <why>`; `code`: what the system said, as in `errno`.
[[noreturn]] void refuse_write(const std::filesystem::path& file, const std::string& what,
                               int code);

}  // namespace lockstep
