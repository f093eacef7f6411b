// Decides how a model's tensors are described: names, dtypes, shapes, order and fingerprint.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "messages/ids.hpp"

namespace lockstep {

/// Element types of the safetensors format. Lockstep never interprets values; it needs only widths.
enum class dtype : std::uint8_t {
  boolean,
  f4,
  f6_e2m3,
  f6_e3m2,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,
  f64,
  i64,
  u64,
  last_ = u64
};

/// Width of one element in bits (4 for f4, 16 for bf16, …).
std::uint32_t bits_of(dtype t) noexcept;

/// Width in bytes of the unit in which changes are found and shipped: the element's own width, and
/// 1 for types packed below a byte. One of 1, 2, 4, 8.
std::uint32_t unit_bytes(dtype t) noexcept;

/// The format's spelling, e.g. "BF16", "F8_E4M3".
std::string_view to_string(dtype t) noexcept;
std::optional<dtype> parse_dtype(std::string_view text) noexcept;

/// One tensor's name, type and shape. An empty shape is a scalar; a zero extent makes it empty.
struct tensor_spec {
  std::string name;
  dtype type = dtype::u8;
  std::vector<std::uint64_t> shape;

  friend bool operator==(const tensor_spec&, const tensor_spec&) = default;
};

/// Size in bytes, or nothing if the product of extents overflows or does not fill whole bytes.
std::optional<std::uint64_t> bytes_of(const tensor_spec& spec) noexcept;

/// The tensors of one model in canonical order (ascending by name, bytewise). Immutable.
///
/// Thread-safe: all members are const after construction.
class layout {
 public:
  layout() = default;

  /// Sorts `tensors` by name. Throws `error{wrong_layout}` on a duplicate or empty name and on a
  /// size that overflows; the message names the tensor.
  explicit layout(std::vector<tensor_spec> tensors);

  const std::vector<tensor_spec>& tensors() const noexcept { return tensors_; }
  std::size_t count() const noexcept { return tensors_.size(); }
  const tensor_spec& operator[](std::size_t index) const { return tensors_[index]; }

  /// Size of tensor `index` in bytes.
  std::uint64_t bytes(std::size_t index) const { return bytes_[index]; }
  /// Sum over all tensors, in bytes.
  std::uint64_t total_bytes() const noexcept { return total_bytes_; }

  std::optional<std::size_t> find(std::string_view name) const;

  /// XXH3-128 over names, dtypes and shapes in canonical order: equal fingerprints, equal layouts.
  const hash128& fingerprint() const noexcept { return fingerprint_; }

  friend bool operator==(const layout& a, const layout& b) { return a.tensors_ == b.tensors_; }

 private:
  std::vector<tensor_spec> tensors_;
  std::vector<std::uint64_t> bytes_;
  std::uint64_t total_bytes_ = 0;
  hash128 fingerprint_;
};

}  // namespace lockstep
