// Decides the bound that coded bytes are held against: the entropy of a change given the old
// element's exponent.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "kernels/bytes.hpp"
#include "messages/layout.hpp"

namespace lockstep {

/// What both sides know is the old element. Given its exponent, the bound is the entropy of "does
/// it change", and, where it does, of the step in last places. Elements that are no floats have one
/// exponent. It is what counts say of all tensors of a dtype together; a coder that looks closer
/// (at tensors, at places) can fall below it.
class exponent_bound {
 public:
  explicit exponent_bound(dtype type);

  void add(kernels::bytes_view base, kernels::bytes_view target);

  std::uint64_t elements() const noexcept;
  std::uint64_t changes() const noexcept;
  double bytes() const;

 private:
  struct context {
    std::uint64_t elements = 0;
    std::uint64_t changes = 0;
    std::unordered_map<std::uint64_t, std::uint64_t> steps;
  };

  template <class T>
  void add_as(kernels::bytes_view base, kernels::bytes_view target);

  dtype type_;
  unsigned exponent_at_ = 0;    // the lowest bit of the exponent
  unsigned exponent_bits_ = 0;  // none: no float
  std::vector<context> contexts_;
};

}  // namespace lockstep
