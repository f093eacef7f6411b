#include "weights/shard.hpp"

#include <algorithm>

#include "messages/errors.hpp"
#include "weights/file.hpp"

namespace lockstep {

shard_mask whole_model(const layout& shape) {
  return shard_mask(shape.count(), true);
}

shard_mask even_shard(const layout& shape, std::uint32_t rank, std::uint32_t ranks) {
  shard_mask out(shape.count(), false);
  // A tensor belongs to the rank in whose share of all bytes its middle lies.
  const auto total = static_cast<long double>(std::max<std::uint64_t>(shape.total_bytes(), 1));
  std::uint64_t before = 0;
  for (std::size_t i = 0; i < shape.count(); ++i) {
    const auto middle =
        static_cast<long double>(before) + static_cast<long double>(shape.bytes(i)) / 2;
    const auto owner = static_cast<std::uint32_t>(middle / total * ranks);
    out[i] = std::min(owner, ranks - 1) == rank;
    before += shape.bytes(i);
  }
  return out;
}

shard_mask shard_of(const layout& shape, const std::vector<std::string>& names) {
  shard_mask out(shape.count(), false);
  for (const auto& name : names) {
    const auto index = shape.find(name);
    if (!index) throw error(errc::wrong_layout, "there is no tensor " + in_quotes(name));
    if (out[*index])
      throw error(errc::wrong_layout, "tensor " + in_quotes(name) + " is there twice");
    out[*index] = true;
  }
  return out;
}

layout shard_layout(const layout& shape, const shard_mask& owned) {
  if (std::ranges::count(owned, false) == 0) return shape;
  auto specs = shape.tensors();
  for (std::size_t i = 0; i < specs.size(); ++i)
    if (!owned[i]) specs[i].shape = {0};
  return layout(std::move(specs));
}

tensor_reader shard_reader(tensor_reader all, shard_mask owned) {
  return [all = std::move(all), owned = std::move(owned)](std::size_t index) {
    return owned[index] ? all(index) : std::span<const std::byte>();
  };
}

payload packed_mask(const shard_mask& owned) {
  std::vector<std::byte> out;
  for (std::size_t i = 0; i < owned.size(); ++i)
    if (owned[i])
      for (int shift = 0; shift < 32; shift += 8)
        out.push_back(static_cast<std::byte>(i >> shift & 0xff));
  return payload(std::move(out));
}

std::optional<shard_mask> unpacked_mask(const payload& bytes, std::size_t count) {
  if (bytes.size() % 4 != 0) return std::nullopt;
  shard_mask out(count, false);
  std::size_t next = 0;
  for (std::size_t at = 0; at < bytes.size(); at += 4) {
    std::size_t index = 0;
    for (std::size_t i = 0; i < 4; ++i)
      index |= std::to_integer<std::size_t>(bytes.data()[at + i]) << (8 * i);
    if (index < next || index >= count) return std::nullopt;
    out[index] = true;
    next = index + 1;
  }
  return out;
}

tensor_views part_of(tensor_views tensors, const shard_mask& taken) {
  for (std::size_t i = 0; i < taken.size(); ++i)
    if (!taken[i]) tensors[i].bytes = {};
  return tensors;
}

payload packed_part(const shard_mask& taken) {
  std::vector<std::byte> out((taken.size() + 7) / 8);
  for (std::size_t i = 0; i < taken.size(); ++i)
    if (taken[i]) out[i / 8] |= std::byte{1} << (i % 8);
  return payload(std::move(out));
}

shard_mask part_from(const payload& bytes, const layout& shape) {
  const auto refuse = [](const char* why) { throw error(errc::wrong_layout, why); };
  shard_mask out;
  if (bytes.size() == 0) return out;
  const auto count = shape.count();
  if (bytes.size() != (count + 7) / 8) refuse("its part is not one of this many tensors");
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < 8 * bytes.size(); ++i) {
    const bool set = (bytes.data()[i / 8] >> (i % 8) & std::byte{1}) != std::byte{0};
    if (i < count) {
      out.push_back(set);
      if (set) sum += shape.bytes(i);
    } else if (set) {
      refuse("its part names tensors that there are not");
    }
  }
  if (sum == 0) refuse("its part holds nothing");
  if (std::ranges::count(out, false) == 0) refuse("its part is the whole, and called a part");
  return out;
}

}  // namespace lockstep
