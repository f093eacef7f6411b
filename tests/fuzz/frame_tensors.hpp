// Decides which tensors the targets `frame` and `bucket` decode onto, and what their frames mean.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "fuzz/fuzz.hpp"
#include "kernels/dispatch.hpp"
#include "kernels/frame.hpp"
#include "kernels/frame_layout.hpp"

namespace lockstep::fuzz {

using bytes = std::vector<std::byte>;

/// Every unit; gaps with and without escapes; ranges of one tensor; one without bytes, and two that
/// no frame can be of. Each is an allocation of its own, so that the address sanitizer sees a write
/// past it.
struct tensor_shape {
  std::size_t size;
  std::uint32_t unit;
};
inline constexpr std::array<tensor_shape, 8> tensor_shapes{
    {{24, 2}, {70'001, 1}, {64, 4}, {80, 8}, {(1 << 20) + 40, 4}, {0, 2}, {9, 3}, {5, 2}}};

/// memcmp: comparing vectors of std::byte goes byte by byte.
inline bool same(const bytes& a, const bytes& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

inline std::vector<bytes> make_tensors() {
  std::vector<bytes> all;
  std::uint64_t state = 1;
  for (const auto& shape : tensor_shapes) {
    bytes one(shape.size);
    for (auto& b : one) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      b = static_cast<std::byte>(state >> 56);
    }
    all.push_back(std::move(one));
  }
  return all;
}

inline std::vector<kernels::tensor_view> views_of(const std::vector<bytes>& tensors) {
  std::vector<kernels::tensor_view> views;
  for (std::size_t i = 0; i < tensors.size(); ++i)
    views.push_back({{tensors[i].data(), tensors[i].size()}, tensor_shapes[i].unit});
  return views;
}

inline std::vector<kernels::tensor_span> spans_of(std::vector<bytes>& tensors) {
  std::vector<kernels::tensor_span> spans;
  for (std::size_t i = 0; i < tensors.size(); ++i)
    spans.push_back({{tensors[i].data(), tensors[i].size()}, tensor_shapes[i].unit});
  return spans;
}

/// Tensors of the target `coded`: long enough that coded frames are the shortest ones.
inline constexpr std::array<tensor_shape, 5> coded_shapes{
    {{3000, 2}, {2000, 1}, {1604, 4}, {1600, 8}, {16'386, 2}}};

/// Elements as training has them: floats of bf16 and fp32, bytes and words of few values.
inline std::vector<bytes> make_coded_tensors() {
  std::vector<bytes> all;
  std::uint64_t state = 3;
  for (const auto& shape : coded_shapes) {
    bytes one(shape.size);
    for (std::size_t at = 0; at < shape.size; at += shape.unit) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      // The top byte but for the sign in a narrow band, the rest any.
      std::uint64_t value = state >> 8;
      const unsigned top = 8 * shape.unit - 8;
      value = (value & ~(std::uint64_t{0x7f} << top)) | (0x38 + (state >> 61)) << top;
      std::memcpy(&one[at], &value, shape.unit);
    }
    all.push_back(std::move(one));
  }
  return all;
}

inline std::vector<kernels::tensor_view> coded_views_of(const std::vector<bytes>& tensors) {
  std::vector<kernels::tensor_view> views;
  for (std::size_t i = 0; i < tensors.size(); ++i)
    views.push_back({{tensors[i].data(), tensors[i].size()}, coded_shapes[i].unit});
  return views;
}

/// What an accepted frame makes of its tensor, by docs/wire-format.md, every access checked.
inline void apply_plainly(const kernels::frame& f, bytes& tensor) {
  const auto payload = [&](std::size_t at) {
    demand(at < f.payload.size, "an accepted frame's payload holds what it says");
    return f.payload.data[at];
  };
  if (f.encoding == kernels::frame_encoding::full) {
    for (std::size_t i = 0; i < f.payload.size; ++i) tensor.at(f.offset + i) = payload(i);
    return;
  }
  std::size_t element = 0;
  for (std::size_t at = 0; at < f.payload.size;) {
    const auto gap = std::to_integer<std::size_t>(payload(at)) |
                     std::to_integer<std::size_t>(payload(at + 1)) << 8;
    at += 2;
    element += gap;
    if (gap == 0xffff) continue;
    for (std::size_t i = 0; i < f.unit; ++i)
      tensor.at(f.offset + element * f.unit + i) = payload(at++);
    demand((element + 1) * f.unit <= f.range_bytes, "an accepted frame stays in its range");
    ++element;
  }
}

/// Forces an implementation until the end of the scope.
class forced {
 public:
  explicit forced(kernels::implementation which) : before_(kernels::active_implementation()) {
    demand(kernels::set_implementation(which), "an available implementation can be had");
  }
  forced(const forced&) = delete;
  forced& operator=(const forced&) = delete;
  ~forced() { kernels::set_implementation(before_); }

 private:
  kernels::implementation before_;
};

}  // namespace lockstep::fuzz
