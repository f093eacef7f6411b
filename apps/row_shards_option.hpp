// Decides how one says on the command line in how many parts tensors are split by rows.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>

#include "apps/plain_number.hpp"
#include "weights/row_split.hpp"

namespace lockstep {

inline CLI::Option* add_row_shards_option(CLI::App& command, std::uint32_t& parts) {
  return command
      .add_option("--row-shards", parts,
                  "In how many runs of rows each tensor is split; the same for all of a fleet")
      ->check(plain_number(1, row_split::parts_max))
      ->type_name("N")
      ->capture_default_str();
}

}  // namespace lockstep
