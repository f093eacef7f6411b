// Decides where each receiver's last weights are written, and whether they can be.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "messages/ids.hpp"

namespace lockstep {

/// The directory given as `--out`.
class output_directory {
 public:
  /// Finds out by trying whether the files of `receivers` receivers can be written below `dir`, and
  /// leaves everything as it was: a run that fails later has written nothing. Throws
  /// `error{unwritable}` that names `dir` or what stands in the way.
  output_directory(std::filesystem::path dir, std::uint32_t receivers);

  /// `DIR/receiver-I/model.safetensors`
  std::filesystem::path file_of(receiver_id id) const;

 private:
  std::filesystem::path dir_;
};

}  // namespace lockstep
