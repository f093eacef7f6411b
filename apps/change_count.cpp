#include "apps/change_count.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

namespace lockstep {

change_count::change_count(const tensor_spec& spec)
    : spec_(spec), unit_(unit_bytes(spec.type)), elements_(bytes_of(spec).value_or(0) / unit_) {}

void change_count::add(std::uint64_t offset, std::span<const std::byte> old,
                       std::span<const std::byte> fresh) {
  for (std::size_t at = 0; at + unit_ <= old.size(); at += unit_) {
    if (std::memcmp(old.data() + at, fresh.data() + at, unit_) == 0) continue;
    for (std::size_t i = at; i < at + unit_; ++i)
      if (old[i] != fresh[i]) ++changed_bytes_;
    last_ = (offset + at) / unit_;
    if (changed_++ == 0) first_ = last_;
    // Below 2^64: a tensor has less than 2^60 elements.
    ++histogram_[static_cast<std::size_t>(last_ * slices / elements_)];
  }
}

double change_count::density() const noexcept {
  return elements_ == 0 ? 0 : static_cast<double>(changed_) / static_cast<double>(elements_);
}

std::string change_count::drawn() const {
  constexpr std::string_view shades = " .:-=+*#";
  const auto most = *std::max_element(histogram_.begin(), histogram_.end());
  std::string out;
  for (const auto n : histogram_)
    out += n == 0 ? ' ' : shades[1 + static_cast<std::size_t>(n * (shades.size() - 2) / most)];
  return out;
}

// Of types packed below a byte, the element is a byte.
std::string change_count::index_text(std::uint64_t element) const {
  std::vector<std::uint64_t> index(spec_.shape.size());
  if (bits_of(spec_.type) < 8) return fmt::format("[byte {}]", element);
  for (auto i = index.size(); i-- > 0;) {
    index[i] = element % spec_.shape[i];
    element /= spec_.shape[i];
  }
  return fmt::format("[{}]", fmt::join(index, ", "));
}

nlohmann::ordered_json change_count::as_json() const {
  return {{"elements", elements_}, {"changed", changed_},     {"changed_bytes", changed_bytes_},
          {"density", density()},  {"histogram", histogram_}, {"first", first()},
          {"last", last()}};
}

}  // namespace lockstep
