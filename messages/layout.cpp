#include "messages/layout.hpp"

#include <xxhash.h>

#include <algorithm>
#include <array>

#include "messages/errors.hpp"

namespace lockstep {

namespace {

struct dtype_info {
  std::string_view name;
  std::uint32_t bits;
};

// The format's own list and spelling: safetensors 0.6, `Dtype`.
constexpr std::array<dtype_info, static_cast<std::size_t>(dtype::last_) + 1> dtypes{{
    {"BOOL", 8}, {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},
    {"U16", 16}, {"F16", 16},    {"BF16", 16},   {"I32", 32},    {"U32", 32},
    {"F32", 32}, {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64},
}};

void append(std::string& out, std::uint64_t value) {
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

hash128 fingerprint_of(const std::vector<tensor_spec>& tensors) {
  std::string text;
  append(text, tensors.size());
  for (const auto& t : tensors) {
    // Lengths stand before what they count, so that no two layouts share a byte string.
    append(text, t.name.size());
    text += t.name;
    append(text, static_cast<std::uint64_t>(t.type));
    append(text, t.shape.size());
    for (const auto extent : t.shape) append(text, extent);
  }
  const auto hash = XXH3_128bits(text.data(), text.size());
  return {hash.high64, hash.low64};
}

}  // namespace

std::uint32_t bits_of(dtype t) noexcept {
  return dtypes[static_cast<std::size_t>(t)].bits;
}

std::uint32_t unit_bytes(dtype t) noexcept {
  return std::max(bits_of(t) / 8, 1u);
}

std::string_view to_string(dtype t) noexcept {
  return dtypes[static_cast<std::size_t>(t)].name;
}

std::optional<dtype> parse_dtype(std::string_view text) noexcept {
  for (std::size_t i = 0; i < dtypes.size(); ++i)
    if (dtypes[i].name == text) return static_cast<dtype>(i);
  return std::nullopt;
}

std::optional<std::uint64_t> bytes_of(const tensor_spec& spec) noexcept {
  std::uint64_t bits = bits_of(spec.type);
  // A zero extent makes the tensor empty whatever the others are, but they must not overflow first.
  if (std::find(spec.shape.begin(), spec.shape.end(), 0u) != spec.shape.end()) return 0;
  for (const auto extent : spec.shape)
    if (__builtin_mul_overflow(bits, extent, &bits)) return std::nullopt;
  if (bits % 8 != 0) return std::nullopt;
  return bits / 8;
}

layout::layout(std::vector<tensor_spec> tensors) : tensors_(std::move(tensors)) {
  std::sort(tensors_.begin(), tensors_.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  bytes_.reserve(tensors_.size());
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const auto& name = tensors_[i].name;
    if (name.empty()) throw error(errc::wrong_layout, "a tensor has an empty name");
    if (i > 0 && tensors_[i - 1].name == name)
      throw error(errc::wrong_layout, "tensor '" + name + "' stands twice in the layout");
    const auto size = bytes_of(tensors_[i]);
    if (!size || __builtin_add_overflow(total_bytes_, *size, &total_bytes_))
      throw error(errc::wrong_layout,
                  "tensor '" + name + "' has a size that cannot be represented");
    bytes_.push_back(*size);
  }
  fingerprint_ = fingerprint_of(tensors_);
}

std::optional<std::size_t> layout::find(std::string_view name) const {
  const auto it = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                   [](const auto& t, std::string_view n) { return t.name < n; });
  if (it == tensors_.end() || it->name != name) return std::nullopt;
  return static_cast<std::size_t>(it - tensors_.begin());
}

}  // namespace lockstep
