#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "weights/checkpoint.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/compressed.hpp"
#include "weights/file.hpp"
#include "weights/host_record.hpp"
#include "weights/plain_file.hpp"
#include "weights/published.hpp"
#include "weights/published_encode.hpp"
#include "weights/state_digest.hpp"
#include "weights/workers.hpp"

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

  /// Where a shard of these tensors is to be written.
  fs::path add_shard(std::size_t number, std::size_t count, const std::vector<std::string>& names) {
    const auto name = fmt::format("model-{:05}-of-{:05}.safetensors", number, count);
    for (const auto& tensor : names) weight_map_[tensor] = name;
    return dir_ / name;
  }

  void add_companion(const fs::path& file) const {
    const auto to = dir_ / file.filename();
    auto temporary = to;
    temporary += ".tmp";
    copy_whole(file, temporary);
    std::error_code failure;
    fs::rename(temporary, to, failure);
    if (failure) refuse(errc::unwritable, to, "cannot be renamed into place: " + failure.message());
  }

  /// Returns the length of the index.
  std::uint64_t publish(nlohmann::ordered_json metadata,
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

 private:
  // An attempt that died left shards that this one may not overwrite, and that the index will not
  // name; readers refuse such a directory.
  void remove_leftovers() {
    for (const auto& file : files_in(dir_))
      if (file.extension() == ".safetensors" || file.extension() == ".tmp") remove_file(file);
  }

  fs::path dir_;
  std::map<std::string, std::string> weight_map_;
};

void check_options(const fs::path& dir, std::uint64_t version, const publish_options& options) {
  constexpr std::array<std::string_view, 8> own{
      "version",         "base_version", "delta_encoding", "compression_format",
      "checksum_format", "total_size",   own_key::base,    own_key::target};
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

std::vector<std::size_t> changed_tensors(const fs::path& dir, const layout& shape,
                                         const tensor_reader& base, const tensor_reader& target,
                                         const publish_options& options) {
  for (std::size_t i = 0; i < shape.count(); ++i) {
    const auto refuse_tensor = [&](const std::string& what) {
      refuse(errc::wrong_layout, dir, fmt::format("tensor {} {}", in_quotes(shape[i].name), what));
    };
    if (base(i).size() != shape.bytes(i) || target(i).size() != shape.bytes(i))
      refuse_tensor("has another length than its layout says");
    // Whether it changed or not: better at the first version than at the first that touches it.
    if (options.encoding == published_encoding::overwrite && shape.bytes(i) > overwrite_bytes_max)
      refuse_tensor(fmt::format("has {} bytes, more than \"overwrite\" can address: use \"xor\"",
                                shape.bytes(i)));
  }
  std::vector<unsigned char> differs(shape.count());
  for_each_index(shape.count(), [&](std::size_t i) {
    constexpr std::uint64_t window_bytes = 1 << 20;
    // Of a tensor that did not change nobody else would read the bytes.
    const bool unknown = options.digests && (*options.digests)[i].empty();
    published_hasher hash(published_checksum::xxh3_128);
    for (std::uint64_t at = 0; at < shape.bytes(i) && !differs[i]; at += window_bytes) {
      const auto size = std::min(window_bytes, shape.bytes(i) - at);
      differs[i] = std::memcmp(base(i).data() + at, target(i).data() + at, size) != 0;
      if (unknown && !differs[i]) hash.update(base(i).subspan(at, size));
      if (options.done) options.done(i, at, at + size);
    }
    if (unknown && !differs[i]) (*options.digests)[i] = hash.digest();
  });
  std::vector<std::size_t> changed;
  for (std::size_t i = 0; i < shape.count(); ++i)
    if (differs[i]) changed.push_back(i);
  return changed;
}

// One shard of a delta. Parts are written as they are made, so the header, which comes first, gets
// room for the longest numbers it may hold and is written last.
class shard_writer {
 public:
  shard_writer(const fs::path& file, const layout& shape, const std::vector<std::size_t>& tensors)
      : file_(file), shape_(shape) {
    std::uint64_t bytes_max = 0;
    for (const auto i : tensors)
      bytes_max += compressed_bytes_max(4 + 5 * shape.bytes(i));  // overwrite's worst
    std::vector<entry> widest;
    for (const auto i : tensors)
      widest.push_back({i, bytes_max, 2 * bytes_max, std::string(32, '0')});
    room_ = (header_text(widest).size() + 7) / 8 * 8;
    if (room_ > file_limits().header_bytes_max)
      refuse(errc::wrong_layout, file, fmt::format("needs a header of {} bytes", room_));
    file_.write(std::string(8 + room_, ' '));
  }

  void write(std::span<const std::byte> bytes) {
    file_.write(bytes);
    size_ += bytes.size();
  }

  void end_part(std::size_t tensor, const std::string& digest) {
    entries_.push_back({tensor, begun_, size_, digest});
    begun_ = size_;
  }

  std::uint64_t commit() {
    auto text = header_text(entries_);
    text.resize(room_, ' ');
    std::array<std::byte, 8> length;
    for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<std::byte>(room_ >> (8 * i));
    file_.write_at(0, length);
    file_.write_at(8, std::as_bytes(std::span(text)));
    file_.commit();
    return 8 + room_ + size_;
  }

 private:
  struct entry {
    std::size_t tensor;
    std::uint64_t begin;
    std::uint64_t end;
    std::string digest;
  };

  std::string header_text(const std::vector<entry>& entries) const {
    auto digests = nlohmann::ordered_json::object();
    auto header = nlohmann::ordered_json::object();
    // Built as lists: looking for an earlier entry of the same name would make it quadratic.
    auto& digest_list = digests.get_ref<nlohmann::ordered_json::object_t&>();
    auto& list = header.get_ref<nlohmann::ordered_json::object_t&>();
    list.reserve(entries.size() + 1);
    for (const auto& e : entries) digest_list.emplace_back(shape_[e.tensor].name, e.digest);
    list.emplace_back(std::string(metadata_key), std::move(digests));
    for (const auto& e : entries)
      list.emplace_back(
          shape_[e.tensor].name,
          nlohmann::ordered_json{
              {"dtype", "U8"}, {"shape", {e.end - e.begin}}, {"data_offsets", {e.begin, e.end}}});
    return header.dump();
  }

  file_writer file_;
  const layout& shape_;
  std::uint64_t room_ = 0;
  std::uint64_t size_ = 0;   // of the data
  std::uint64_t begun_ = 0;  // where in it the part under way begins
  std::vector<entry> entries_;
};

// Encodes the tensors of one shard, several at a time, and writes them in order.
class shard_encoding {
 public:
  /// What is not known of `base_digests` is made known.
  shard_encoding(const layout& shape, const tensor_reader& base, const tensor_reader& target,
                 const publish_options& options, std::vector<std::string>& base_digests)
      : shape_(shape),
        base_(base),
        target_(target),
        options_(options),
        base_digests_(base_digests) {}

  std::uint64_t run(const fs::path& file, const std::vector<std::size_t>& tensors) {
    shard_writer out(file, shape_, tensors);
    for (std::size_t at = 0; at < tensors.size();) {
      auto end = at;
      std::uint64_t bytes = 0;
      do bytes += shape_.bytes(tensors[end++]);
      while (end < tensors.size() && bytes + shape_.bytes(tensors[end]) <= together_bytes_max);
      encode(std::span(tensors).subspan(at, end - at), out);
      at = end;
    }
    return out.commit();
  }

 private:
  /// What is encoded at a time is at most as long, compressed or not.
  static constexpr std::uint64_t together_bytes_max = 128 << 20;

  void encode(std::span<const std::size_t> tensors, shard_writer& out) {
    std::vector<std::vector<std::byte>> parts(tensors.size());
    std::vector<part_digests> digests(tensors.size());
    for_each_index(tensors.size(), [&](std::size_t n) {
      const auto i = tensors[n];
      std::uint64_t released = 0;
      const auto spill = [&](std::uint64_t read) {
        if (options_.done && read > released) options_.done(i, released, read);
        released = read;
        if (tensors.size() > 1) return;
        out.write(parts[n]);
        parts[n].clear();
      };
      digests[n] =
          encode_part(options_.encoding, options_.checksum, unit_bytes(shape_[i].type), base_(i),
                      target_(i), parts[n], spill, options_.digests && base_digests_[i].empty());
    });
    for (std::size_t n = 0; n < tensors.size(); ++n) {
      out.write(parts[n]);
      out.end_part(tensors[n], digests[n].checksum);
      if (!options_.digests) continue;
      (*options_.digests)[tensors[n]] = digests[n].xxh3;
      if (!digests[n].base.empty()) base_digests_[tensors[n]] = digests[n].base;
    }
  }

  const layout& shape_;
  const tensor_reader& base_;
  const tensor_reader& target_;
  const publish_options& options_;
  std::vector<std::string>& base_digests_;
};

}  // namespace

fs::path published_dir(const fs::path& stream, std::uint64_t version) {
  return stream / ("weight_v" + version_text(version));
}

std::uint64_t publish_delta(const fs::path& stream, std::uint64_t version,
                            std::uint64_t base_version, const layout& shape,
                            const tensor_reader& base, const tensor_reader& target,
                            const publish_options& options) {
  const auto dir = published_dir(stream, version);
  check_options(dir, version, options);
  if (base_version >= version)
    refuse(errc::bad_input, dir,
           fmt::format("its base {} is not an earlier version", base_version));
  const auto changed = changed_tensors(dir, shape, base, target, options);
  const auto groups = group(shape, changed, options.shard_bytes_max);
  publication out(stream, version);
  nlohmann::ordered_json metadata{
      {"version", version_text(version)},
      {"base_version", version_text(base_version)},
      {"delta_encoding", to_string(options.encoding)},
      {"compression_format", options.encoding == published_encoding::coded ? "none" : "zstd"},
      {"checksum_format", to_string(options.checksum)}};
  auto base_digests = options.digests ? *options.digests : std::vector<std::string>();
  std::uint64_t bytes = 0;
  shard_encoding encoding(shape, base, target, options, base_digests);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    std::vector<std::string> names;
    for (const auto i : groups[g]) names.push_back(shape[i].name);
    bytes += encoding.run(out.add_shard(g, groups.size(), names), groups[g]);
  }
  if (options.digests) {
    metadata[own_key::base] = state_digest(shape, base_digests);
    metadata[own_key::target] = state_digest(shape, *options.digests);
  }
  return bytes + out.publish(std::move(metadata), options.metadata);
}

std::uint64_t publish_full(const fs::path& stream, std::uint64_t version, const layout& shape,
                           const tensor_reader& source, const publish_options& options) {
  check_options(published_dir(stream, version), version, options);
  std::vector<std::size_t> all(shape.count());
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
  const auto groups = group(shape, all, options.shard_bytes_max);
  publication out(stream, version);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    std::vector<tensor_spec> specs;
    std::vector<std::string> names;
    for (const auto i : groups[g]) {
      specs.push_back(shape[i]);
      names.push_back(shape[i].name);
    }
    write_safetensors(
        out.add_shard(g, groups.size(), names), layout(std::move(specs)),
        [&](std::size_t i) { return source(groups[g][i]); }, checkpoint_metadata);
    if (options.done)
      for (const auto i : groups[g]) options.done(i, 0, shape.bytes(i));
  }
  for (const auto& file : options.companions) out.add_companion(file);
  nlohmann::ordered_json metadata{{"version", version_text(version)},
                                  {"total_size", shape.total_bytes()}};
  if (options.digests) {
    options.digests->resize(shape.count());
    for_each_index(shape.count(), [&](std::size_t i) {
      (*options.digests)[i] = published_digest(published_checksum::xxh3_128, source(i));
      if (options.done) options.done(i, 0, shape.bytes(i));
    });
    metadata[own_key::target] = state_digest(shape, *options.digests);
  }
  out.publish(std::move(metadata), options.metadata);
  return shape.total_bytes();
}

}  // namespace lockstep
