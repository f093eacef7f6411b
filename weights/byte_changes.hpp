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

/// Calls `visit(position)` for each byte of `a` that differs from that of `b`, which is as long,
/// ascending.
template <class Visit>
void for_each_difference(std::span<const std::byte> a, std::span<const std::byte> b, Visit visit) {
  constexpr auto block = kernels::block_bytes;
  constexpr std::size_t blocks_at_once = 64;
  std::array<std::uint64_t, blocks_at_once> masks;
  const auto& loops = kernels::active_loops();
  std::size_t at = 0;
  while (a.size() - at >= block) {
    const auto blocks = std::min(blocks_at_once, (a.size() - at) / block);
    loops.compare(a.data() + at, b.data() + at, blocks, masks.data());
    for (std::size_t i = 0; i < blocks; ++i, at += block)
      for (auto bits = masks[i]; bits != 0; bits &= bits - 1)
        visit(at + static_cast<std::size_t>(std::countr_zero(bits)));
  }
  for (; at < a.size(); ++at)
    if (a[at] != b[at]) visit(at);
}

/// Calls `visit(position)` for each byte that is not zero, ascending.
template <class Visit>
void for_each_nonzero(std::span<const std::byte> bytes, Visit visit) {
  static constexpr std::array<std::byte, 4096> zeros{};
  for (std::size_t at = 0; at < bytes.size(); at += zeros.size()) {
    const auto piece = bytes.subspan(at, std::min(zeros.size(), bytes.size() - at));
    for_each_difference(piece, std::span(zeros).first(piece.size()),
                        [&](std::size_t i) { visit(at + i); });
  }
}

}  // namespace lockstep
