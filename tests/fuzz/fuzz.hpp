// Decides what all fuzz targets share: what they demand, and how much a decoder may hold.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace lockstep::fuzz {

/// Ends the program, saying `what`, unless `holds`.
void demand(bool holds, const char* what);

/// Demands that `message` is what a person can be shown: one line of a bounded length.
void demand_message(std::string_view message);

/// Counts what this thread allocates and does not give back, from here to the end of the scope.
/// Needs a sanitizer's allocator; without one nothing is counted.
class held_bytes {
 public:
  /// Demands at the end that at no time more than `bound` bytes were held.
  explicit held_bytes(std::size_t bound);
  held_bytes(const held_bytes&) = delete;
  held_bytes& operator=(const held_bytes&) = delete;
  ~held_bytes();

 private:
  std::size_t bound_;
};

}  // namespace lockstep::fuzz

/// What every target defines. Returns 0.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace lockstep::fuzz {

/// What a target was given, as bytes.
inline std::span<const std::byte> input_of(const std::uint8_t* data, std::size_t size) {
  return std::as_bytes(std::span(data, size));
}

}  // namespace lockstep::fuzz
