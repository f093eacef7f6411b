#include "weights/row_split.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>

#include "messages/errors.hpp"

namespace lockstep {

namespace {

/// Whether rows of `spec` can be told apart by bytes: elements that are whole bytes always can.
bool has_rows(const tensor_spec& spec, std::uint64_t bytes) {
  return bytes != 0 && !spec.shape.empty() && bytes % spec.shape.front() == 0;
}

}  // namespace

row_split::row_split(const layout& whole, std::uint32_t parts) : parts_(parts), whole_(whole) {
  if (parts == 0 || parts > parts_max)
    throw error(
        errc::bad_input,
        fmt::format("a tensor can be split by rows in 1 to {} parts, not {}", parts_max, parts));
  std::vector<tensor_spec> specs;
  std::unordered_map<std::string, piece> named;
  for (std::size_t i = 0; i < whole.count(); ++i) {
    const auto& spec = whole[i];
    const auto rows = has_rows(spec, whole.bytes(i)) ? spec.shape.front() : 1;
    const auto most = rows / parts + (rows % parts != 0 ? 1 : 0);
    const auto row_bytes = whole.bytes(i) / rows;
    const bool alone = most == rows;
    for (std::uint32_t part = 0; part * most < rows; ++part) {
      const auto first = part * most;
      auto& made = specs.emplace_back(spec);
      if (!alone) {
        made.name += fmt::format("@{}/{}", part, parts);
        made.shape.front() = std::min(most, rows - first);
        // Also where that one is split itself, so that its name is none of a piece: who asks for
        // tensors by name would get both.
        if (whole.find(made.name))
          throw error(errc::wrong_layout,
                      fmt::format("'{}' is a tensor, and a piece of '{}'", made.name, spec.name));
      }
      named[made.name] = {i, first * row_bytes, part, alone};
    }
  }
  shape_ = layout(std::move(specs));
  for (const auto& spec : shape_.tensors()) pieces_.push_back(named.at(spec.name));
}

shard_mask row_split::share(std::uint32_t rank, std::uint32_t ranks) const {
  if (parts_ == 1) return even_shard(shape_, rank, ranks);
  if (ranks == 0 || parts_ % ranks != 0)
    throw error(errc::bad_input,
                fmt::format("{} parts by rows cannot be shared evenly by {} ranks", parts_, ranks));
  shard_mask out;
  for (const auto& p : pieces_) out.push_back(p.part / (parts_ / ranks) == rank);
  return out;
}

/// What of a tensor is piece `index`. A piece of one that is too short or too long could pass for
/// whole, and be another one's bytes.
template <class Byte>
std::span<Byte> row_split::cut(std::size_t index, std::span<Byte> tensor) const {
  const auto& p = pieces_[index];
  if (tensor.empty()) return tensor;
  if (tensor.size() != whole_.bytes(p.tensor))
    throw error(errc::wrong_layout,
                fmt::format("tensor '{}' has {} bytes, not {}", whole_[p.tensor].name,
                            tensor.size(), whole_.bytes(p.tensor)));
  return tensor.subspan(p.offset, shape_.bytes(index));
}

tensor_reader row_split::reader(tensor_reader whole) const {
  // Readers are copied.
  const auto split = std::make_shared<const row_split>(*this);
  return [whole = std::move(whole), split](std::size_t index) {
    return split->cut(index, whole((*split)[index].tensor));
  };
}

std::vector<std::span<std::byte>> row_split::memory(
    std::span<const std::span<std::byte>> whole) const {
  if (whole.size() != whole_.count())
    throw error(errc::wrong_layout,
                fmt::format("memory of {} tensors, not {}", whole.size(), whole_.count()));
  std::vector<std::span<std::byte>> out;
  for (std::size_t i = 0; i < pieces_.size(); ++i) out.push_back(cut(i, whole[pieces_[i].tensor]));
  return out;
}

}  // namespace lockstep
