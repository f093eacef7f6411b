#include "weights/published_shards.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <utility>

#include "weights/checkpoint.hpp"
#include "weights/compressed.hpp"
#include "weights/file.hpp"
#include "weights/published_encode.hpp"
#include "weights/safetensors.hpp"
#include "weights/state_digest.hpp"
#include "weights/workers.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

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

version_shards::version_shards(const fs::path& dir, const layout& shape, const tensor_reader& base,
                               const tensor_reader& target, const publish_options& options)
    : shape_(shape), base_(&base), target_(target), options_(options) {
  const auto changed = changed_tensors(dir, shape, base, target, options);
  groups_ = group(shape, changed, options.shard_bytes_max);
  if (options.digests) base_digests_ = *options.digests;
}

version_shards::version_shards(const layout& shape, const tensor_reader& target,
                               const publish_options& options)
    : shape_(shape), base_(nullptr), target_(target), options_(options) {
  std::vector<std::size_t> all(shape.count());
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
  groups_ = group(shape, all, options.shard_bytes_max);
}

std::vector<std::string> version_shards::names(std::size_t shard) const {
  std::vector<std::string> out;
  for (const auto i : groups_[shard]) out.push_back(shape_[i].name);
  return out;
}

std::uint64_t version_shards::write(std::size_t shard, const fs::path& file) {
  const auto& tensors = groups_[shard];
  if (base_)
    return shard_encoding(shape_, *base_, target_, options_, base_digests_).run(file, tensors);
  std::vector<tensor_spec> specs;
  for (const auto i : tensors) specs.push_back(shape_[i]);
  const layout own(std::move(specs));
  write_safetensors(
      file, own, [&](std::size_t i) { return target_(tensors[i]); }, checkpoint_metadata);
  if (options_.done)
    for (const auto i : tensors) options_.done(i, 0, shape_.bytes(i));
  return own.total_bytes();
}

const std::vector<std::string>& version_shards::finish() {
  if (base_ || !options_.digests) return base_digests_;
  options_.digests->resize(shape_.count());
  for_each_index(shape_.count(), [&](std::size_t i) {
    (*options_.digests)[i] = published_digest(published_checksum::xxh3_128, target_(i));
    if (options_.done) options_.done(i, 0, shape_.bytes(i));
  });
  return base_digests_;
}

}  // namespace lockstep
