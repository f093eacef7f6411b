// Decides whether a directory is made for a host that has none yet.
#pragma once

#include "weights/pull.hpp"

namespace lockstep {

/// Throws what a pull would, where nothing stands at `options.checkpoint` and no whole checkpoint
/// leads to the target: a mistyped name must not leave a directory. A host that says what became
/// of each version (`options.name`) is let through, for its word brings it a whole one.
void require_way_to_new_host(const pull_options& options);

}  // namespace lockstep
