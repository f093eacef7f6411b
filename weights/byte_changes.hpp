// Decides where two runs of bytes differ, for those who write changes byte by byte. Private to
// weights/.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/inner_loops.hpp"

namespace lockstep {

/// Bytes that are compared at once: what is compared with the same bytes again and again needs no
/// more of them.
inline constexpr std::size_t compared_bytes = 4096;

/// Calls `visit(position)` for each byte of the `size` at `a` that differs from that of `b`,
/// ascending; `b_of(position)` says where the bytes are that those from `position` on, at most
/// `compared_bytes`, are compared with.
template <class Other, class Visit>
void for_each_difference(std::span<const std::byte> a, Other b_of, Visit visit) {
  constexpr auto block = kernels::block_bytes;
  std::array<std::uint64_t, compared_bytes / block> masks;
  const auto& loops = kernels::active_loops();
  for (std::size_t at = 0; at < a.size(); at += compared_bytes) {
    const auto size = std::min(compared_bytes, a.size() - at);
    const auto* const from = a.data() + at;
    const std::byte* const with = b_of(at);
    const auto blocks = size / block;
    loops.compare(from, with, blocks, masks.data());
    for (std::size_t i = 0; i < blocks; ++i)
      for (auto bits = masks[i]; bits != 0; bits &= bits - 1)
        visit(at + i * block + static_cast<std::size_t>(std::countr_zero(bits)));
    for (auto i = blocks * block; i < size; ++i)
      if (from[i] != with[i]) visit(at + i);
  }
}

/// The same of two that are as long as each other.
template <class Visit>
void for_each_difference(std::span<const std::byte> a, std::span<const std::byte> b, Visit visit) {
  for_each_difference(
      a, [b](std::size_t at) { return b.data() + at; }, visit);
}

/// Calls `visit(position)` for each byte that is not zero, ascending.
template <class Visit>
void for_each_nonzero(std::span<const std::byte> bytes, Visit visit) {
  static constexpr std::array<std::byte, compared_bytes> zeros{};
  for_each_difference(
      bytes, [](std::size_t) { return zeros.data(); }, visit);
}

}  // namespace lockstep
