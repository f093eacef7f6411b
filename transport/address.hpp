// Decides how the address of a process is written.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

/// Where a process listens.
struct node_address {
  std::string host;  ///< a name or an address, without brackets
  std::uint16_t port = 0;

  friend bool operator==(const node_address&, const node_address&) = default;
};

/// Whether `text` can be the name or address of a host: letters, digits, dots, hyphens and
/// underscores; within brackets an IPv6 address, which may name a zone after a "%".
bool is_host(std::string_view text, bool bracketed) noexcept;
/// HOST:PORT, or [HOST]:PORT for an IPv6 address. Throws `setting_error` (operator) that names
/// `key`.
node_address parse_address(std::string_view key, std::string_view text);
/// Several, parted by commas; at least one, and none twice.
std::vector<node_address> parse_addresses(std::string_view key, std::string_view text);

}  // namespace lockstep
