// Decides where an http://HOST:PORT leads.
#pragma once

#include <string>

namespace lockstep {

struct http_address {
  std::string authority;  ///< HOST:PORT as it was given, which requests repeat
  std::string host;       ///< a name, or an address without brackets
  std::string port;       ///< from 1 to 65535, in decimal
};

/// Throws `error{bad_setting}` on anything but `http://HOST:PORT`, with a slash after it or
/// without, HOST being a name, an address of four numbers or one of IPv6 in brackets.
http_address parse_http_address(const std::string& given);

}  // namespace lockstep
