#include "transport/address.hpp"

#include <algorithm>
#include <charconv>

#include "config/settings.hpp"
#include "messages/printable.hpp"

namespace lockstep {

bool is_host(std::string_view text, bool bracketed) noexcept {
  constexpr std::string_view of_names =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
  constexpr std::string_view of_ipv6 = "0123456789abcdefABCDEF:.";
  const auto percent = bracketed ? text.find('%') : text.npos;
  const auto address = text.substr(0, percent);
  return !address.empty() &&
         address.find_first_not_of(bracketed ? of_ipv6 : of_names) == address.npos &&
         (percent == text.npos || is_host(text.substr(percent + 1), false));
}

node_address parse_address(std::string_view key, std::string_view text) {
  const auto fail = [&](const char* must =
                            "must be HOST:PORT, or [HOST]:PORT for an IPv6 address") {
    return setting_error(std::string(key) + " is \"" + printable(text) + "\", " + must);
  };
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) throw fail();
  auto host = text.substr(0, colon);
  const auto port = text.substr(colon + 1);
  const bool bracketed = host.front() == '[';
  if (bracketed) {
    if (host.back() != ']') throw fail();
    host = host.substr(1, host.size() - 2);
  }
  if (!is_host(host, bracketed)) throw fail();
  node_address out{std::string(host), 0};
  const auto [end, problem] = std::from_chars(port.data(), port.data() + port.size(), out.port);
  if (problem == std::errc::result_out_of_range) throw fail("the highest port is 65535");
  if (port.empty() || problem != std::errc() || end != port.data() + port.size()) throw fail();
  return out;
}

std::vector<node_address> parse_addresses(std::string_view key, std::string_view text) {
  std::vector<node_address> out;
  for (std::size_t begin = 0; begin <= text.size();) {
    const auto comma = std::min(text.find(',', begin), text.size());
    out.push_back(parse_address(key, text.substr(begin, comma - begin)));
    // Two links to one process would take each other's place.
    if (std::count(out.begin(), out.end(), out.back()) > 1)
      throw setting_error(std::string(key) + " names " + out.back().host + " port " +
                          std::to_string(out.back().port) + " twice");
    begin = comma + 1;
  }
  return out;
}

}  // namespace lockstep
