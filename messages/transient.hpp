// Decides which of the system's refusals are of the moment, so that trying again may help.
#pragma once

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

/// Throws `error{reason}`, or the `try_again_error` among them where `code`, what the system said
/// as in `errno`, is of the moment.
[[noreturn]] void throw_refused(errc reason, const std::string& text, int code);

}  // namespace lockstep
