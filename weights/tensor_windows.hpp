// Decides how all tensors of a checkpoint are read from its files in bounded memory. Private to
// weights/.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "weights/checkpoint.hpp"
#include "weights/plain_file.hpp"
#include "weights/workers.hpp"

namespace lockstep {

/// Length in bytes of all windows of a tensor but the last.
inline constexpr std::size_t tensor_window_bytes = std::size_t{1} << 20;

/// Calls `visit(i, read)` for each tensor, on several threads; in it, `read(take)` calls
/// `take(offset, bytes)` for each window of the tensor in turn. Files are read and not mapped.
/// Throws `error{bad_input}`.
template <class Visit>
void read_tensors(const checkpoint& from, const Visit& visit) {
  std::vector<plain_file> files;
  for (std::size_t f = 0; f < from.file_count(); ++f)
    files.emplace_back(from.file(f), plain_file::access::read);
  for_each_index(from.shape().count(), [&](std::size_t i) {
    const auto place = from.place_of(i);
    const auto size = from.shape().bytes(i);
    visit(i, [&](const auto& take) {
      std::vector<std::byte> window(std::min<std::uint64_t>(size, tensor_window_bytes));
      for (std::uint64_t at = 0; at < size; at += window.size()) {
        const auto piece =
            std::span(window).first(std::min<std::uint64_t>(window.size(), size - at));
        files[place.file].read(place.offset + at, piece);
        take(at, std::span<const std::byte>(piece));
      }
    });
  });
}

}  // namespace lockstep
