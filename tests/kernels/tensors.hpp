// Decides what random tensors the kernel tests run on, and what a correct frame of them is.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <stdexcept>
#include <vector>

#include "kernels/dispatch.hpp"
#include "kernels/frame.hpp"

namespace lockstep::kernels {

using buffer = std::vector<std::byte>;

inline bytes_view view(const buffer& bytes) {
  return {bytes.data(), bytes.size()};
}
inline tensor_view view(const buffer& bytes, std::uint32_t unit) {
  return {view(bytes), unit};
}

/// Forces an implementation until the end of the scope.
class forced {
 public:
  explicit forced(implementation which) : before_(active_implementation()) {
    if (!set_implementation(which)) throw std::logic_error("not available");
  }
  ~forced() { set_implementation(before_); }
  forced(const forced&) = delete;
  forced& operator=(const forced&) = delete;

 private:
  implementation before_;
};

inline buffer random_bytes(std::mt19937_64& random, std::size_t size) {
  buffer bytes(size);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

/// `base` with about `density` of its elements replaced by others; the gaps are geometric.
inline buffer changed(std::mt19937_64& random, const buffer& base, std::uint32_t unit,
                      double density) {
  buffer target = base;
  const std::size_t elements = base.size() / unit;
  if (density <= 0 || elements == 0) return target;
  std::geometric_distribution<std::size_t> gap(std::min(density, 0.999999));
  for (std::size_t i = density >= 1 ? 0 : gap(random); i < elements;
       i += 1 + (density >= 1 ? 0 : gap(random))) {
    const auto flip = static_cast<unsigned char>(1 + random() % 255);
    target[i * unit + random() % unit] ^= static_cast<std::byte>(flip);
  }
  return target;
}

/// Indices of the elements that differ, found the plain way.
inline std::vector<std::size_t> differing(const buffer& a, const buffer& b, std::uint32_t unit) {
  std::vector<std::size_t> result;
  for (std::size_t i = 0; i < a.size() / unit; ++i)
    if (std::memcmp(a.data() + i * unit, b.data() + i * unit, unit) != 0) result.push_back(i);
  return result;
}

/// All frames of a tensor, one after the other; adds up what `encode_delta` returns in `count`.
inline buffer encode(std::uint32_t tensor, tensor_view base, tensor_view target,
                     std::uint64_t& count) {
  buffer out;
  count = 0;
  for (std::size_t at = 0; at < target.bytes.size; at += frame_span_bytes_max)
    count += encode_delta(tensor, base, target, at, out);
  return out;
}

inline frame parse(bytes_view& data, const std::vector<tensor_view>& tensors) {
  frame f;
  std::size_t consumed = 0;
  const frame_status status = parse_frame(data, tensors, f, consumed);
  if (status != frame_status::ok) throw std::runtime_error(to_string(status));
  data = {data.data + consumed, data.size - consumed};
  return f;
}

inline void apply_all(const buffer& frames, const std::vector<tensor_view>& tensors, buffer& live,
                      std::uint32_t unit) {
  for (bytes_view rest = view(frames); rest.size > 0;)
    apply_frame(parse(rest, tensors), {{live.data(), live.size()}, unit});
}

}  // namespace lockstep::kernels
