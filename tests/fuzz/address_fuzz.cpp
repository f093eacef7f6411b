// The bytes are where processes listen, as an operator writes it: HOST:PORT, or several with commas
// between them.
#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>
#include <vector>

#include "config/settings.hpp"
#include "fuzz/fuzz.hpp"
#include "transport/address.hpp"

namespace {

using namespace lockstep;

constexpr std::string_view key = "transport.connect";

/// What `text` names, or nothing where it is refused.
std::vector<node_address> read(std::string_view text) {
  try {
    return parse_addresses(key, text);
  } catch (const setting_error& e) {
    fuzz::demand_message(e.what());
    fuzz::demand(std::string_view(e.what()).starts_with(key), "a refusal names the setting");
    return {};
  }
}

std::string written(const node_address& a) {
  const bool bracketed = a.host.find_first_of(":%") != a.host.npos;
  return (bracketed ? "[" + a.host + "]" : a.host) + ":" + std::to_string(a.port);
}

/// As a person reads it: what stands before the last colon, without brackets, and a number.
void check(std::string_view word, const node_address& a) {
  const auto colon = word.rfind(':');
  fuzz::demand(colon != word.npos, "a port was named");
  auto host = word.substr(0, colon);
  if (host.starts_with('[')) host = host.substr(1, host.size() - 2);
  fuzz::demand(!host.empty() && host == a.host, "the host is the one that was named");
  unsigned long port = 0;
  const auto* const end = word.data() + word.size();
  const auto [rest, problem] = std::from_chars(word.data() + colon + 1, end, port);
  fuzz::demand(problem == std::errc() && rest == end && port == a.port,
               "the port is the one that was named");
  for (const char c : a.host)
    fuzz::demand(c > ' ' && c < 0x7f, "a host can be shown and looked up");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  std::vector<node_address> all;
  {
    const fuzz::held_bytes bound(64 * size + (16 << 10));
    all = read(input);
  }
  if (all.empty()) return 0;
  std::string again;
  auto rest = input;
  for (const auto& a : all) {
    const auto word = rest.substr(0, rest.find(','));
    check(word, a);
    rest.remove_prefix(std::min(rest.size(), word.size() + 1));
    again += (again.empty() ? "" : ",") + written(a);
  }
  fuzz::demand(rest.empty(), "as many as were named");
  const auto back = read(again);
  fuzz::demand(back.size() == all.size(), "what is accepted can be written again");
  for (std::size_t i = 0; i < all.size(); ++i)
    fuzz::demand(back[i].host == all[i].host && back[i].port == all[i].port,
                 "and says the same then");
  return 0;
}
