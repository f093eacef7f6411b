#include "transport/http_address.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cstdint>
#include <string_view>

#include "messages/errors.hpp"
#include "messages/printable.hpp"
#include "transport/address.hpp"

namespace lockstep {

http_address parse_http_address(const std::string& given) {
  constexpr std::string_view scheme = "http://";
  const auto refused = [&] {
    return error(errc::bad_setting, fmt::format("'{}' is not http://HOST:PORT", printable(given)));
  };
  if (!given.starts_with(scheme)) throw refused();
  http_address out{given.substr(scheme.size()), {}, {}};
  if (out.authority.ends_with('/')) out.authority.pop_back();  // as people write it, too
  const auto colon = out.authority.rfind(':');
  if (colon == std::string::npos || colon == 0) throw refused();
  out.host = out.authority.substr(0, colon);
  out.port = out.authority.substr(colon + 1);
  const bool bracketed = out.host.size() > 2 && out.host.front() == '[' && out.host.back() == ']';
  if (bracketed) out.host = out.host.substr(1, out.host.size() - 2);
  if (!is_host(out.host, bracketed)) throw refused();
  std::uint16_t port = 0;
  const auto* end = out.port.data() + out.port.size();
  const auto [rest, problem] = std::from_chars(out.port.data(), end, port);
  if (problem != std::errc() || rest != end || port == 0) throw refused();
  return out;
}

}  // namespace lockstep
