#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/host_record.hpp"
#include "weights/plain_file.hpp"
#include "weights/published.hpp"
#include "weights/published_shards.hpp"
#include "weights/state_digest.hpp"
#include "weights/unwritable.hpp"
#include "weights/weight_stream.hpp"

namespace lockstep {

namespace fs = std::filesystem;

publication::publication(const fs::path& stream, std::uint64_t version)
    : dir_(published_dir(stream, version)) {
  std::error_code failure;
  const auto status = fs::symlink_status(dir_, failure);
  if (status.type() == fs::file_type::none)
    refuse_write(dir_, "cannot be looked at", failure.value());
  if (fs::is_symlink(status))
    refuse(errc::unwritable, dir_, "is a link: what it leads to is not ours to clear and to write");
  make_directories(dir_);
  sync_directory(stream);
  if (has_index(dir_)) refuse(errc::unwritable, dir_, "is published already");
  if (is_lone_checkpoint(dir_))
    refuse(errc::unwritable, dir_,
           fmt::format("is published already: its {} is a full version", single_file_name));
  remove_leftovers();
}

// An attempt that died left shards that this one may not overwrite, and that the index will not
// name; readers refuse such a directory.
void publication::remove_leftovers() {
  for (const auto& file : files_in(dir_))
    if (file.extension() == ".safetensors" || file.extension() == ".tmp") remove_file(file);
}

fs::path publication::add_shard(std::size_t number, std::size_t count,
                                const std::vector<std::string>& names) {
  const auto name = fmt::format("model-{:05}-of-{:05}.safetensors", number, count);
  for (const auto& tensor : names) weight_map_[tensor] = name;
  return dir_ / name;
}

void publication::add_companion(const fs::path& file) const {
  const auto to = dir_ / file.filename();
  auto temporary = to;
  temporary += ".tmp";
  copy_whole(file, temporary);
  std::error_code failure;
  fs::rename(temporary, to, failure);
  if (failure) refuse_write(to, "cannot be renamed into place", failure.value());
}

std::uint64_t publication::publish(nlohmann::ordered_json metadata,
                                   const std::map<std::string, std::string>& extra) {
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
  return text.size();
}

void require_publishable(const fs::path& dir, std::uint64_t version,
                         const publish_options& options) {
  constexpr std::array<std::string_view, 8> own{
      "version",         "base_version", "delta_encoding", "compression_format",
      "checksum_format", "total_size",   own_key::base,    own_key::target};
  if (version == 0) refuse(errc::bad_input, dir, "version 0 is the base and is never published");
  for (const auto& [key, value] : options.metadata)
    if (std::find(own.begin(), own.end(), key) != own.end())
      refuse(errc::bad_input, dir,
             fmt::format("the metadata key {} is the format's own", in_quotes(key)));
}

void require_earlier(const fs::path& dir, std::uint64_t version, std::uint64_t base_version) {
  if (base_version >= version)
    refuse(errc::bad_input, dir,
           fmt::format("its base {} is not an earlier version", base_version));
}

nlohmann::ordered_json delta_metadata(std::uint64_t version, std::uint64_t base_version,
                                      const publish_options& options) {
  return {{"version", version_text(version)},
          {"base_version", version_text(base_version)},
          {"delta_encoding", to_string(options.encoding)},
          {"compression_format", options.encoding == published_encoding::coded ? "none" : "zstd"},
          {"checksum_format", to_string(options.checksum)}};
}

nlohmann::ordered_json full_metadata(std::uint64_t version, std::uint64_t total_bytes) {
  return {{"version", version_text(version)}, {"total_size", total_bytes}};
}

fs::path published_dir(const fs::path& stream, std::uint64_t version) {
  return stream / ("weight_v" + version_text(version));
}

std::uint64_t publish_delta(const fs::path& stream, std::uint64_t version,
                            std::uint64_t base_version, const layout& shape,
                            const tensor_reader& base, const tensor_reader& target,
                            const publish_options& options) {
  const auto dir = published_dir(stream, version);
  require_publishable(dir, version, options);
  require_earlier(dir, version, base_version);
  version_shards shards(dir, shape, base, target, options);
  publication out(stream, version);
  std::uint64_t bytes = 0;
  for (std::size_t g = 0; g < shards.count(); ++g)
    bytes += shards.write(g, out.add_shard(g, shards.count(), shards.names(g)));
  auto metadata = delta_metadata(version, base_version, options);
  const auto& base_digests = shards.finish();
  if (options.digests) {
    metadata[own_key::base] = state_digest(shape, base_digests);
    metadata[own_key::target] = state_digest(shape, *options.digests);
  }
  return bytes + out.publish(std::move(metadata), options.metadata);
}

std::uint64_t publish_full(const fs::path& stream, std::uint64_t version, const layout& shape,
                           const tensor_reader& source, const publish_options& options) {
  require_publishable(published_dir(stream, version), version, options);
  version_shards shards(shape, source, options);
  publication out(stream, version);
  for (std::size_t g = 0; g < shards.count(); ++g)
    shards.write(g, out.add_shard(g, shards.count(), shards.names(g)));
  for (const auto& file : options.companions) out.add_companion(file);
  if (!options.companions.empty()) sync_directory(out.dir());  // their names, before the index's
  auto metadata = full_metadata(version, shape.total_bytes());
  shards.finish();
  if (options.digests) metadata[own_key::target] = state_digest(shape, *options.digests);
  out.publish(std::move(metadata), options.metadata);
  return shape.total_bytes();
}

}  // namespace lockstep
