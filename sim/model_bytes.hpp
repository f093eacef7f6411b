// Decides what all weights of a simulated model are as one string of bytes.
#pragma once

#include <vector>

#include "actors/snapshot_store.hpp"

namespace lockstep::sim {

/// All tensors, one after the other.
using bytes = std::vector<std::byte>;

bytes bytes_of(const weight_buffer& w);
bytes bytes_of(const tensor_views& views);
/// `under`, but for the tensors of which `part` has something.
bytes laid_over(const layout& shape, const bytes& under, const tensor_views& part);
void copy_into(weight_buffer& w, const bytes& from);
bool holds(const weight_buffer& w, const bytes& what);
bool holds(const tensor_views& views, const bytes& what);

}  // namespace lockstep::sim
