#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <utility>

#include "weights/checkpoint.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/compressed.hpp"
#include "weights/file.hpp"
#include "weights/published.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

// A version directory under way: shards first, the index last, since it is what publishes.
class publication {
 public:
  publication(const fs::path& stream, std::uint64_t version)
      : dir_(published_dir(stream, version)) {
    std::error_code failure;
    fs::create_directories(dir_, failure);
    if (failure) refuse(errc::unwritable, dir_, "cannot be made: " + failure.message());
    sync_directory(stream);
    if (has_index(dir_)) refuse(errc::unwritable, dir_, "is published already");
    remove_leftovers();
  }

  void write_shard(std::size_t number, std::size_t count, const layout& shape,
                   const tensor_reader& source, const file_metadata& metadata) {
    const auto name = fmt::format("model-{:05}-of-{:05}.safetensors", number, count);
    write_safetensors(dir_ / name, shape, source, metadata);
    for (const auto& t : shape.tensors()) weight_map_[t.name] = name;
  }

  void publish(nlohmann::ordered_json metadata, const std::map<std::string, std::string>& extra) {
    for (const auto& [key, value] : extra) metadata[key] = value;
    const nlohmann::ordered_json index{{"metadata", std::move(metadata)},
                                       {"weight_map", weight_map_}};
    std::string text;
    try {
      text = index.dump();
    } catch (const nlohmann::json::exception&) {
      refuse(errc::bad_input, dir_, "the index's metadata is not valid UTF-8");
    }
    file_writer out(dir_ / index_name);
    out.write(text);
    out.commit();
  }

 private:
  // An attempt that died left shards that this one may not overwrite, and that the index will not
  // name; readers refuse such a directory.
  void remove_leftovers() {
    std::vector<fs::path> leftovers;
    std::error_code failure;
    for (fs::directory_iterator it(dir_, failure), end; !failure && it != end;
         it.increment(failure))
      if (it->path().extension() == ".safetensors" || it->path().extension() == ".tmp")
        leftovers.push_back(it->path());
    for (const auto& file : leftovers)
      if (!failure) fs::remove(file, failure);
    if (failure) refuse(errc::unwritable, dir_, "cannot be cleared: " + failure.message());
  }

  fs::path dir_;
  std::map<std::string, std::string> weight_map_;
};

std::string version_text(std::uint64_t version) {
  return fmt::format("{:06}", version);
}

void check_options(const fs::path& dir, std::uint64_t version, const publish_options& options) {
  constexpr std::array<std::string_view, 6> own{"version",         "base_version",
                                                "delta_encoding",  "compression_format",
                                                "checksum_format", "total_size"};
  if (version == 0) refuse(errc::bad_input, dir, "version 0 is the base and is never published");
  for (const auto& [key, value] : options.metadata)
    if (std::find(own.begin(), own.end(), key) != own.end())
      refuse(errc::bad_input, dir,
             fmt::format("the metadata key {} is the format's own", in_quotes(key)));
}

// Cuts `tensors` into runs, each closed when it reaches `bytes_max`.
std::vector<std::vector<std::size_t>> group(const layout& shape,
                                            const std::vector<std::size_t>& tensors,
                                            std::uint64_t bytes_max) {
  std::vector<std::vector<std::size_t>> groups;
  std::uint64_t filled = bytes_max;
  for (const auto i : tensors) {
    if (filled >= bytes_max) {
      groups.emplace_back();
      filled = 0;
    }
    groups.back().push_back(i);
    filled += shape.bytes(i);
  }
  return groups;
}

void append_little_endian32(std::vector<std::byte>& out, std::size_t value) {
  for (int i = 0; i < 4; ++i) out.push_back(static_cast<std::byte>(value >> (8 * i)));
}

std::vector<std::byte> encode(published_encoding encoding, std::span<const std::byte> base,
                              std::span<const std::byte> target) {
  std::vector<std::byte> payload;
  if (encoding == published_encoding::xored) {
    payload.resize(target.size());
    std::transform(base.begin(), base.end(), target.begin(), payload.begin(), std::bit_xor<>());
    return payload;
  }
  std::vector<std::byte> values;
  append_little_endian32(payload, 0);
  for (std::size_t i = 0; i < target.size(); ++i) {
    if (base[i] == target[i]) continue;
    append_little_endian32(payload, i);
    values.push_back(target[i]);
  }
  for (std::size_t i = 0; i < 4; ++i) payload[i] = static_cast<std::byte>(values.size() >> (8 * i));
  payload.insert(payload.end(), values.begin(), values.end());
  return payload;
}

std::vector<std::size_t> changed_tensors(const fs::path& dir, const layout& shape,
                                         const tensor_reader& base, const tensor_reader& target,
                                         published_encoding encoding) {
  for (std::size_t i = 0; i < shape.count(); ++i) {
    const auto refuse_tensor = [&](const std::string& what) {
      refuse(errc::wrong_layout, dir, fmt::format("tensor {} {}", in_quotes(shape[i].name), what));
    };
    if (base(i).size() != shape.bytes(i) || target(i).size() != shape.bytes(i))
      refuse_tensor("has another length than its layout says");
    // Whether it changed or not: better at the first version than at the first that touches it.
    if (encoding == published_encoding::overwrite && shape.bytes(i) > overwrite_bytes_max)
      refuse_tensor(fmt::format("has {} bytes, more than \"overwrite\" can address: use \"xor\"",
                                shape.bytes(i)));
  }
  std::vector<std::size_t> changed;
  for (std::size_t i = 0; i < shape.count(); ++i)
    if (shape.bytes(i) > 0 && std::memcmp(base(i).data(), target(i).data(), base(i).size()) != 0)
      changed.push_back(i);
  return changed;
}

}  // namespace

fs::path published_dir(const fs::path& stream, std::uint64_t version) {
  return stream / ("weight_v" + version_text(version));
}

void publish_delta(const fs::path& stream, std::uint64_t version, std::uint64_t base_version,
                   const layout& shape, const tensor_reader& base, const tensor_reader& target,
                   const publish_options& options) {
  const auto dir = published_dir(stream, version);
  check_options(dir, version, options);
  if (base_version >= version)
    refuse(errc::bad_input, dir,
           fmt::format("its base {} is not an earlier version", base_version));
  const auto changed = changed_tensors(dir, shape, base, target, options.encoding);
  const auto groups = group(shape, changed, options.shard_bytes_max);
  publication out(stream, version);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    std::vector<tensor_spec> specs;
    std::vector<std::vector<std::byte>> parts;
    file_metadata digests;
    // A group ascends by name as its layout will, so part i is that layout's tensor i.
    for (const auto i : groups[g]) {
      parts.push_back(compress(encode(options.encoding, base(i), target(i))));
      specs.push_back({shape[i].name, dtype::u8, {parts.back().size()}});
      digests[shape[i].name] = published_digest(options.checksum, target(i));
    }
    out.write_shard(
        g, groups.size(), layout(std::move(specs)),
        [&](std::size_t i) -> std::span<const std::byte> { return parts[i]; }, digests);
  }
  const bool xored = options.encoding == published_encoding::xored;
  const bool xxh3 = options.checksum == published_checksum::xxh3_128;
  out.publish({{"version", version_text(version)},
               {"base_version", version_text(base_version)},
               {"delta_encoding", xored ? "xor" : "overwrite"},
               {"compression_format", "zstd"},
               {"checksum_format", xxh3 ? "xxh3-128" : "adler32"}},
              options.metadata);
}

void publish_full(const fs::path& stream, std::uint64_t version, const layout& shape,
                  const tensor_reader& source, const publish_options& options) {
  check_options(published_dir(stream, version), version, options);
  std::vector<std::size_t> all(shape.count());
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
  const auto groups = group(shape, all, options.shard_bytes_max);
  publication out(stream, version);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    std::vector<tensor_spec> specs;
    for (const auto i : groups[g]) specs.push_back(shape[i]);
    out.write_shard(
        g, groups.size(), layout(std::move(specs)),
        [&](std::size_t i) { return source(groups[g][i]); }, checkpoint_metadata);
  }
  out.publish({{"version", version_text(version)}, {"total_size", shape.total_bytes()}},
              options.metadata);
}

}  // namespace lockstep
