// Decides what data `lockstep bench` measures on: the steps of a real run, or made-up training.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>

#include "messages/layout.hpp"
#include "weights/bucket_codec.hpp"
#include "weights/weight_buffer.hpp"
#include "weights/weight_stream.hpp"

namespace lockstep {

/// How much made-up data: bytes of bf16 weights, and which part of the elements changes.
struct synthetic_size {
  std::uint64_t bytes = 0;
  double density = 0;
};

/// Reads "1GiB,0.01": a number with an optional KiB, MiB or GiB, and a density above 0, up to 1.
std::optional<synthetic_size> parse_synthetic(std::string_view text) noexcept;

/// One step after the other: two states of the same weights.
class bench_data {
 public:
  /// A folder with `base/`, a checkpoint, and `stream/`, the versions that follow it. Throws
  /// `error` like `checkpoint` and `weight_stream`.
  static bench_data trace(const std::filesystem::path& dir);

  /// Weights that are normally distributed, and one step of an optimiser on their fp32 masters: the
  /// step has the same size whatever the weight, so that small weights change more often. The same
  /// arguments give the same data. Throws `error{no_memory}`.
  static bench_data synthetic(synthetic_size size);

  /// Goes to the first or to the next step; false if there is none.
  bool next();

  /// Writes the step that `next` went to as a folder that `trace` reads. Throws
  /// `error{unwritable}`.
  void write(const std::filesystem::path& dir) const;

  const layout& shape() const noexcept { return base_.shape(); }
  const weight_buffer& base() const noexcept { return base_; }
  const weight_buffer& target() const noexcept { return target_; }

 private:
  weight_buffer base_;
  weight_buffer target_;
  std::optional<weight_stream> stream_;
  std::size_t step_ = 0;
};

}  // namespace lockstep
