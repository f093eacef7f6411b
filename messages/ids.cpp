#include "messages/ids.hpp"

#include <xxhash.h>

namespace lockstep {

std::uint64_t cluster_id(std::string_view name) noexcept {
  return XXH3_64bits(name.data(), name.size());
}

namespace {

std::string hex(std::uint64_t high, std::uint64_t low) {
  constexpr char digits[] = "0123456789abcdef";
  std::string text(32, '0');
  for (std::size_t i = 0; i < 16; ++i) {
    text[15 - i] = digits[high >> (4 * i) & 15];
    text[31 - i] = digits[low >> (4 * i) & 15];
  }
  return text;
}

}  // namespace

std::string to_string(version_ref v) {
  return std::to_string(v.run) + '.' + std::to_string(v.number);
}
std::string to_string(txn_ref t) {
  return std::to_string(t.run) + '.' + std::to_string(t.seq);
}
std::string to_string(const incarnation& x) {
  return hex(x.hi, x.lo);
}
std::string to_string(const digest& x) {
  return hex(x.lane0, x.lane1);
}
std::string to_string(const hash128& x) {
  return hex(x.hi, x.lo);
}

}  // namespace lockstep
