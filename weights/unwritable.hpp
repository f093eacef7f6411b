// Decides what is said where the system does not let a file be written or read.
#pragma once

#include <filesystem>
#include <string>

#include "messages/transient.hpp"

namespace lockstep {

/// Throws `error{unwritable}`, or the `try_again_error` among them, with the message
/// `<file>: <what>: <why>`; `code`: what the system said, as in `errno`.
[[noreturn]] void refuse_write(const std::filesystem::path& file, const std::string& what,
                               int code);

/// The same for one that cannot be read: `error{bad_input}`.
[[noreturn]] void refuse_read(const std::filesystem::path& file, const std::string& what, int code);

}  // namespace lockstep
