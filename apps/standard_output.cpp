#include "apps/standard_output.hpp"

#include <fmt/format.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "apps/json_line.hpp"
#include "messages/one_line.hpp"
#include "weights/unwritable.hpp"

namespace lockstep {

void print_out(std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (written && std::fflush(stdout) == 0) return;
  refuse_write("standard output", "cannot be written", errno);
}

void outlive_readers() {
  std::signal(SIGPIPE, SIG_IGN);
}

void log_out(std::string_view text) {
  static std::atomic<bool> told = false;
  try {
    print_out(text);
  } catch (const error& e) {
    if (!told.exchange(true)) print_error(fmt::format("{}: going on without it", e.what()));
  }
}

void print_error(std::string_view what) {
  std::fflush(stdout);
  std::fputs(("lockstep: " + one_line(what) + '\n').c_str(), stderr);
}

void print_listening(std::string_view listen, std::uint16_t port, bool json, bool for_followers) {
  const auto host = listen.substr(0, listen.rfind(':'));
  if (!json)
    return print_out(
        fmt::format("listening {}on {}:{}\n", for_followers ? "to followers " : "", host, port));
  const nlohmann::ordered_json line{
      {"kind", for_followers ? "follower_listening" : "listening"}, {"host", host}, {"port", port}};
  print_out(json_line(line));
}

}  // namespace lockstep
