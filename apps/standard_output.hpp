// Decides what happens when nobody takes what the program prints.
#pragma once

#include <cstdint>
#include <string_view>

namespace lockstep {

/// Writes `text` to standard output at once, so that whoever reads along sees it. Throws
/// `error{unwritable}` if it cannot be written: a full disk, a reader that has gone while SIGPIPE
/// is ignored (by default that signal ends the program, as is usual in a pipeline).
void print_out(std::string_view text);

/// For a process that serves or watches: from now on nothing ends because somebody has closed the
/// pipe that it prints into.
void outlive_readers();
/// `print_out` for such a process, to which its lines are a log: that they cannot be written is
/// said once, on standard error, and changes nothing. Thread-safe.
void log_out(std::string_view text);

/// One line on standard error, whatever stands in a name that it quotes. Where that cannot be
/// written there is nobody to be told.
void print_error(std::string_view what);

/// Says where this process listens: at the host of `listen` (HOST:PORT), and the port that it came
/// to. `for_followers`: for those of a published stream alone.
void print_listening(std::string_view listen, std::uint16_t port, bool json,
                     bool for_followers = false);

}  // namespace lockstep
