#include "apps/bench_bound.hpp"

#include <cmath>
#include <cstring>

namespace lockstep {
namespace {

struct float_format {
  unsigned fraction;
  unsigned exponent;
};

/// {0, 0}: not a float of its own.
float_format format_of(dtype t) noexcept {
  switch (t) {
    case dtype::f8_e5m2:
      return {2, 5};
    case dtype::f8_e4m3:
      return {3, 4};
    case dtype::f16:
      return {10, 5};
    case dtype::bf16:
      return {7, 8};
    case dtype::f32:
      return {23, 8};
    case dtype::f64:
      return {52, 11};
    default:
      return {0, 0};
  }
}

/// Bits of `part` out of `whole`, all of one kind.
double bits(std::uint64_t part, std::uint64_t whole) {
  if (part == 0) return 0;
  return -static_cast<double>(part) *
         std::log2(static_cast<double>(part) / static_cast<double>(whole));
}

}  // namespace

exponent_bound::exponent_bound(dtype type) : type_(type) {
  const auto format = format_of(type);
  exponent_at_ = format.fraction;
  exponent_bits_ = format.exponent;
  contexts_.resize(std::size_t{1} << exponent_bits_);
}

template <class T>
void exponent_bound::add_as(kernels::bytes_view base, kernels::bytes_view target) {
  constexpr unsigned top = 8 * sizeof(T) - 1;
  const std::uint64_t mask = contexts_.size() - 1;
  const auto in_order = [this](T x) {
    if (exponent_bits_ == 0) return x;
    return static_cast<T>(x >> top != 0 ? ~x : x | T{1} << top);
  };
  std::vector<std::uint64_t> elements(contexts_.size());
  for (std::size_t at = 0; at + sizeof(T) <= base.size; at += sizeof(T)) {
    T from;
    T to;
    std::memcpy(&from, base.data + at, sizeof from);
    std::memcpy(&to, target.data + at, sizeof to);
    const auto exponent = static_cast<std::size_t>(from >> exponent_at_ & mask);
    ++elements[exponent];
    if (from == to) continue;
    ++contexts_[exponent].changes;
    ++contexts_[exponent].steps[static_cast<T>(in_order(to) - in_order(from))];
  }
  for (std::size_t i = 0; i < elements.size(); ++i) contexts_[i].elements += elements[i];
}

void exponent_bound::add(kernels::bytes_view base, kernels::bytes_view target) {
  switch (unit_bytes(type_)) {
    case 1:
      return add_as<std::uint8_t>(base, target);
    case 2:
      return add_as<std::uint16_t>(base, target);
    case 4:
      return add_as<std::uint32_t>(base, target);
    default:
      return add_as<std::uint64_t>(base, target);
  }
}

std::uint64_t exponent_bound::elements() const noexcept {
  std::uint64_t sum = 0;
  for (const auto& c : contexts_) sum += c.elements;
  return sum;
}

std::uint64_t exponent_bound::changes() const noexcept {
  std::uint64_t sum = 0;
  for (const auto& c : contexts_) sum += c.changes;
  return sum;
}

double exponent_bound::bytes() const {
  double sum = 0;
  for (const auto& c : contexts_) {
    sum += bits(c.changes, c.elements) + bits(c.elements - c.changes, c.elements);
    for (const auto& [step, count] : c.steps) sum += bits(count, c.changes);
  }
  return sum / 8;
}

}  // namespace lockstep
