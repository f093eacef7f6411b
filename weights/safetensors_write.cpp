#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <numeric>

#include "weights/checkpoint.hpp"
#include "weights/file.hpp"
#include "weights/safetensors.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

// Widest elements first, so that every tensor is aligned to its elements in a file whose data start
// at a multiple of 8; by name within a width.
std::vector<std::size_t> file_order(const layout& shape) {
  std::vector<std::size_t> order(shape.count());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return unit_bytes(shape[a].type) > unit_bytes(shape[b].type);
  });
  return order;
}

std::string header_text(const layout& shape, const std::vector<std::size_t>& order,
                        const file_metadata& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  // Built as a list: looking for an earlier entry of the same name would make it quadratic.
  auto& entries = header.get_ref<nlohmann::ordered_json::object_t&>();
  entries.reserve(order.size() + 1);
  if (!metadata.empty()) entries.emplace_back(std::string(metadata_key), metadata);
  std::uint64_t offset = 0;
  for (const auto i : order) {
    const auto end = offset + shape.bytes(i);
    entries.emplace_back(shape[i].name, nlohmann::ordered_json{{"dtype", to_string(shape[i].type)},
                                                               {"shape", shape[i].shape},
                                                               {"data_offsets", {offset, end}}});
    offset = end;
  }
  auto text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

std::array<std::byte, 8> little_endian(std::uint64_t value) {
  std::array<std::byte, 8> bytes;
  for (auto& b : bytes) {
    b = static_cast<std::byte>(value);
    value >>= 8;
  }
  return bytes;
}

}  // namespace

void write_safetensors(const fs::path& file, const layout& shape, const tensor_reader& source,
                       const file_metadata& metadata, durability how) {
  for (std::size_t i = 0; i < shape.count(); ++i) {
    const auto& name = shape[i].name;
    if (name == metadata_key || name.size() > tensor_name_bytes_max)
      refuse(errc::wrong_layout, file,
             fmt::format("tensor {} has a name that the format cannot hold", in_quotes(name)));
    if (source(i).size() != shape.bytes(i))
      refuse(errc::wrong_layout, file,
             fmt::format("tensor {} has another length than its layout says", in_quotes(name)));
  }
  const auto order = file_order(shape);
  std::string header;
  try {
    header = header_text(shape, order, metadata);
  } catch (const nlohmann::json::exception&) {
    refuse(errc::wrong_layout, file, "a tensor's name or its metadata is not valid UTF-8");
  }
  const auto bytes_max = file_limits().header_bytes_max;
  if (header.size() > bytes_max)
    refuse(errc::wrong_layout, file,
           fmt::format("needs a header of {} bytes, the limit is {}", header.size(), bytes_max));

  file_writer out(file);
  out.write(little_endian(header.size()));
  out.write(header);
  for (const auto i : order) out.write(source(i));
  out.commit(how);
}

}  // namespace lockstep
