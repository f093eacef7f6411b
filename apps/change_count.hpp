// Decides how the change of one tensor is summed up for a person.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>

#include "messages/layout.hpp"

namespace lockstep {

/// Counts elements that differ between two states of a tensor, a window at a time.
class change_count {
 public:
  static constexpr std::size_t slices = 16;

  explicit change_count(const tensor_spec& spec);

  /// The next window of both, which begins at byte `offset`, a multiple of the element's width.
  void add(std::uint64_t offset, std::span<const std::byte> old, std::span<const std::byte> fresh);

  std::uint64_t elements() const noexcept { return elements_; }
  std::uint64_t changed() const noexcept { return changed_; }
  std::uint64_t changed_bytes() const noexcept { return changed_bytes_; }
  double density() const noexcept;
  /// Changed elements in each sixteenth of the tensor.
  const std::array<std::uint64_t, slices>& histogram() const noexcept { return histogram_; }
  /// The same as sixteen characters from ' ' to '#', scaled to the densest.
  std::string drawn() const;
  /// "[3, 17]": indices of the first and of the last changed element; "" if there is none.
  std::string first() const { return changed_ == 0 ? "" : index_text(first_); }
  std::string last() const { return changed_ == 0 ? "" : index_text(last_); }
  nlohmann::ordered_json as_json() const;

 private:
  std::string index_text(std::uint64_t element) const;

  const tensor_spec& spec_;
  std::uint64_t unit_;
  std::uint64_t elements_ = 0;
  std::uint64_t changed_ = 0;
  std::uint64_t changed_bytes_ = 0;
  std::uint64_t first_ = 0;
  std::uint64_t last_ = 0;
  std::array<std::uint64_t, slices> histogram_{};
};

}  // namespace lockstep
