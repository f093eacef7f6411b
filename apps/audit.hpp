// Decides whether a receiver's bytes are the target's, by digesting both afresh.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "messages/ids.hpp"
#include "messages/layout.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep {

/// XXH3-128 of each tensor, in canonical order: not the digest that the protocol goes by, so that
/// an error in that one cannot hide itself.
std::vector<hash128> tensor_hashes(const layout& shape, const tensor_reader& tensors);

/// The index of the first tensor whose hashes differ; nothing if all are equal.
std::optional<std::size_t> first_difference(const std::vector<hash128>& a,
                                            const std::vector<hash128>& b);

}  // namespace lockstep
