#include "apps/standard_output.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "apps/json_line.hpp"
#include "weights/unwritable.hpp"

namespace lockstep {

void print_out(std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (written && std::fflush(stdout) == 0) return;
  refuse_write("standard output", "cannot be written", errno);
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
