// Decides which tensors of a model one rank of a trainer owns.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "messages/layout.hpp"
#include "messages/payload.hpp"
#include "weights/bucket_codec.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep {

/// For each tensor of a layout in canonical order: whether it is owned.
using shard_mask = std::vector<bool>;

/// Every tensor.
shard_mask whole_model(const layout& shape);
/// The part of `rank` of `ranks`: runs of neighbouring tensors, as even in bytes as whole tensors
/// allow. Together the parts are the model.
shard_mask even_shard(const layout& shape, std::uint32_t rank, std::uint32_t ranks);
/// The named ones. Throws `error{wrong_layout}` naming one that is not in `shape`, or is twice.
shard_mask shard_of(const layout& shape, const std::vector<std::string>& names);

/// `shape` with all tensors that are not owned emptied: the same names and indices, and no bytes.
/// What is computed over it is the shard's part of what is computed over the model.
layout shard_layout(const layout& shape, const shard_mask& owned);
/// A reader that has nothing of what is not owned.
tensor_reader shard_reader(tensor_reader all, shard_mask owned);

/// The owned indices as they travel; nothing if they are not ascending indices below `count`.
payload packed_mask(const shard_mask& owned);
std::optional<shard_mask> unpacked_mask(const payload& bytes, std::size_t count);

// --- the part of a model that a receiver takes. An empty mask stands for all of it.

/// `tensors` with those that are not taken emptied, like `shard_layout`.
tensor_views part_of(tensor_views tensors, const shard_mask& taken);
/// As it travels in `hello_msg`.
payload packed_part(const shard_mask& taken);
/// The mask that travels like this. Throws `error{wrong_layout}` saying what is wrong if it is not
/// the one spelling of some of the tensors of `shape`, with bytes in them.
shard_mask part_from(const payload& bytes, const layout& shape);

}  // namespace lockstep
