// Decides how the payload of a raw frame is read. Private to kernels/.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/frame_layout.hpp"
#include "kernels/inner_loops.hpp"

namespace lockstep::kernels {

/// Calls `on_change(position, element)` for each change of a raw payload, in order; `position`
/// counts elements from the front of the range and is inside it, whatever the payload.
template <class T, class OnChange>
frame_status walk_raw(const frame& f, OnChange on_change) {
  const std::byte* at = f.payload.data;
  const std::byte* const end = at + f.payload.size;
  const std::uint64_t elements = f.range_bytes / sizeof(T);
  std::uint64_t position = 0;
  std::uint32_t found = 0;
  while (static_cast<std::size_t>(end - at) >= gap_bytes + sizeof(T)) {
    const auto gap = load<std::uint16_t>(at);
    at += gap_bytes;
    position += gap;
    if (position >= elements) return frame_status::bad_position;
    if (gap == gap_escape) continue;
    on_change(position, load<T>(at));
    at += sizeof(T);
    ++position;
    ++found;
  }
  if (at != end) return frame_status::bad_size;
  return found == f.count ? frame_status::ok : frame_status::bad_count;
}

}  // namespace lockstep::kernels
