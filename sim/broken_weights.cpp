#include "sim/broken_weights.hpp"

#include <algorithm>
#include <cstring>

namespace lockstep::sim {

namespace {

/// Bits of an element without its sign, and the largest of those that is a number.
struct number_format {
  std::uint32_t magnitude;
  std::uint32_t number_max;
};

std::optional<number_format> format_of(dtype type) {
  switch (type) {
    case dtype::bf16:
      return number_format{0x7fff, 0x7f80};
    case dtype::f32:
      return number_format{0x7fffffff, 0x7f800000};
    case dtype::f8_e4m3:
      return number_format{0x7f, 0x7e};
    default:
      return std::nullopt;  // the small model has no other that is no plain integer
  }
}

std::uint32_t bits_at(const bytes& from, std::size_t at, std::size_t size) {
  std::uint32_t out = 0;
  std::memcpy(&out, from.data() + at, size);
  return out;
}

/// Calls `visit` with where each element begins, how long it is, whether it is its tensor's last,
/// and the tensor's type.
template <class Visit>
void for_each_element(const layout& shape, Visit visit) {
  std::size_t at = 0;
  for (std::size_t i = 0; i < shape.count(); ++i) {
    const auto size = unit_bytes(shape[i].type);
    const auto end = at + static_cast<std::size_t>(shape.bytes(i));
    for (; at < end; at += size) visit(at, size, at + size == end, shape[i].type);
  }
}

}  // namespace

bytes compared_as_numbers(const layout& shape, const bytes& before, const bytes& now) {
  auto out = now;
  for_each_element(shape, [&](std::size_t at, std::size_t size, bool, dtype type) {
    const auto format = format_of(type);
    if (!format) return;
    const auto magnitude = bits_at(now, at, size) & format->magnitude;
    const bool is_nan = magnitude > format->number_max;
    const bool both_zero = magnitude == 0 && (bits_at(before, at, size) & format->magnitude) == 0;
    if (is_nan || both_zero)
      std::copy_n(before.begin() + static_cast<std::ptrdiff_t>(at), size,
                  out.begin() + static_cast<std::ptrdiff_t>(at));
  });
  return out;
}

bytes written_one_further(const layout& shape, const bytes& before, const bytes& now) {
  auto out = before;
  for_each_element(shape, [&](std::size_t at, std::size_t size, bool last, dtype) {
    if (last || std::memcmp(before.data() + at, now.data() + at, size) == 0) return;
    std::memcpy(out.data() + at + size, now.data() + at, size);
  });
  return out;
}

}  // namespace lockstep::sim
