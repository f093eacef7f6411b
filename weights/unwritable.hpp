// Decides what is said where the system does not let a file be written or read, and when trying
// again may help.
#pragma once

#include <filesystem>
#include <string>

#include "messages/errors.hpp"

namespace lockstep {

/// What failed now may go well when it is tried again: there was no room, a disk or a file server
/// failed, or a file was taken away.
class try_again_error : public error {
 public:
  using error::error;
};

/// Whether what the system said, as in `errno`, is of the moment: something is full or used up, or
/// a disk or a file server fails. Not what whoever named the file has to mend.
bool is_transient(int code) noexcept;

/// Whether it was thrown as a `try_again_error`.
inline bool is_transient(const error& what) noexcept {
  return dynamic_cast<const try_again_error*>(&what) != nullptr;
}

/// Throws `error{unwritable}`, or the `try_again_error` among them, with the message
/// `<file>: <what>: <why>`; `code`: what the system said, as in `errno`.
[[noreturn]] void refuse_write(const std::filesystem::path& file, const std::string& what,
                               int code);

/// The same for one that cannot be read: `error{bad_input}`.
[[noreturn]] void refuse_read(const std::filesystem::path& file, const std::string& what, int code);

}  // namespace lockstep
