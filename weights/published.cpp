#include "weights/published.hpp"

#include <fmt/format.h>
#include <xxhash.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <new>
#include <utility>

#include "messages/ids.hpp"
#include "weights/byte_source.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/compressed.hpp"
#include "weights/file.hpp"
#include "weights/plain_file.hpp"
#include "weights/published_part.hpp"
#include "weights/published_shards.hpp"
#include "weights/safetensors.hpp"

#ifdef LOCKSTEP_XXHASH_DISPATCHES
#include <xxh_x86dispatch.h>  // other names for what is called below
#endif

namespace lockstep {

namespace fs = std::filesystem;

namespace {

std::uint64_t version_in(const checkpoint_index& index, const std::string& key) {
  const auto at = index.metadata.find(key);
  if (at == index.metadata.end()) refuse(errc::bad_input, index.path, "has no " + key);
  const auto& text = at->second;
  std::uint64_t value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc() || end != text.data() + text.size() || text.empty())
    refuse(errc::bad_input, index.path,
           fmt::format("its {} {} is not a number", key, in_quotes(text)));
  return value;
}

// The value of one of the names that `choices` offers.
template <class T>
T choice_in(const checkpoint_index& index, const std::string& key,
            std::initializer_list<std::pair<std::string_view, T>> choices) {
  const auto at = index.metadata.find(key);
  if (at == index.metadata.end()) refuse(errc::bad_input, index.path, "has no " + key);
  for (const auto& [name, value] : choices)
    if (name == at->second) return value;
  refuse(errc::bad_input, index.path,
         fmt::format("its {} {} is not one that can be read", key, in_quotes(at->second)));
}

}  // namespace

std::string_view to_string(published_encoding encoding) noexcept {
  switch (encoding) {
    case published_encoding::xored:
      return "xor";
    case published_encoding::overwrite:
      return "overwrite";
    case published_encoding::coded:
      break;
  }
  return "lockstep-coded";
}

std::string_view to_string(published_checksum format) noexcept {
  return format == published_checksum::xxh3_128 ? "xxh3-128" : "adler32";
}

std::string published_digest(published_checksum format, std::span<const std::byte> bytes) {
  if (format == published_checksum::adler32) {
    const auto* data = reinterpret_cast<const Bytef*>(bytes.data());
    // Asked for no bytes at no address, the library gives its initial value, as it should.
    return fmt::format("{:08x}", adler32_z(adler32_z(0, nullptr, 0), data, bytes.size()));
  }
  const auto hash = XXH3_128bits(bytes.data(), bytes.size());
  return to_string(hash128{hash.high64, hash.low64});
}

// A shard that the index does not name holds changes that nobody would apply.
void refuse_strays(const fs::path& dir, const checkpoint_index& index) {
  const auto shards = index.shards();
  for (const auto& file : files_in(dir)) {
    if (file.extension() != ".safetensors" || shards.contains(file.filename().string())) continue;
    const safetensors_file stray(file);
    if (stray.count() > 0)
      refuse(errc::bad_input, file,
             fmt::format("holds tensor {}, but the index does not name this file",
                         in_quotes(stray.spec(0).name)));
  }
}

published_delta published_delta::open(const fs::path& dir, const layout& expected) {
  const auto index = read_index(dir);
  if (!index.is_delta()) refuse(errc::bad_input, index.path, "describes a checkpoint, not a delta");
  published_delta result;
  result.shape_ = expected;
  result.read_metadata(index);
  for (const auto& [tensor, shard] : index.weight_map)
    if (!expected.find(tensor))
      refuse(errc::wrong_layout, index.path,
             fmt::format("tensor {} is not in the base", in_quotes(tensor)));
  for (const auto& [shard, mapped] : index.shards()) result.add_shard(dir / shard, mapped);
  refuse_strays(dir, index);
  std::sort(result.parts_.begin(), result.parts_.end(),
            [](const part& a, const part& b) { return a.tensor < b.tensor; });
  return result;
}

void published_delta::read_metadata(const checkpoint_index& index) {
  metadata_ = index.metadata;
  version_ = version_in(index, "version");
  base_version_ = version_in(index, "base_version");
  encoding_ = choice_in<published_encoding>(
      index, "delta_encoding",
      {{to_string(published_encoding::xored), published_encoding::xored},
       {to_string(published_encoding::overwrite), published_encoding::overwrite},
       {to_string(published_encoding::coded), published_encoding::coded}});
  // Frames are as dense as they get.
  choice_in<bool>(index, "compression_format",
                  {{encoding_ == published_encoding::coded ? "none" : "zstd", true}});
  checksum_ = choice_in<published_checksum>(
      index, "checksum_format",
      {{to_string(published_checksum::xxh3_128), published_checksum::xxh3_128},
       {to_string(published_checksum::adler32), published_checksum::adler32}});
}

bool is_digest(published_checksum format, std::string_view text) {
  return text.size() == (format == published_checksum::xxh3_128 ? 32u : 8u) &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

void require_compressed(const safetensors_header& shard, const fs::path& path,
                        published_checksum checksum) {
  for (const auto& [spec, begin, end] : shard.tensors) {
    const auto refuse_tensor = [&path, &name = spec.name](const std::string& what) {
      refuse(errc::bad_input, path, fmt::format("tensor {} {}", in_quotes(name), what));
    };
    if (spec.type != dtype::u8 || spec.shape.size() != 1)
      refuse_tensor("is not a list of U8, as a compressed part must be");
    const auto digest = shard.metadata.find(spec.name);
    if (digest == shard.metadata.end()) refuse_tensor("has no checksum");
    if (!is_digest(checksum, digest->second))
      refuse_tensor(fmt::format("has the malformed checksum {}", in_quotes(digest->second)));
  }
}

void published_delta::add_shard(const fs::path& path, const std::vector<std::string>& mapped) {
  auto file = std::make_shared<const plain_file>(path, plain_file::access::read);
  const auto header = read_safetensors_header(*file);
  require_mapped(header, path, mapped);
  require_compressed(header, path, checksum_);
  for (const auto& [spec, begin, end] : header.tensors)
    parts_.push_back({*shape_.find(spec.name), files_.size(), header.data_offset + begin,
                      end - begin, header.metadata.at(spec.name)});
  files_.push_back(std::move(file));
}

byte_source published_delta::compressed(std::size_t index) const {
  const auto& p = parts_[index];
  return {*files_[p.file], p.offset, p.bytes};
}

const fs::path& published_delta::file(std::size_t index) const {
  return files_[parts_[index].file]->path();
}

std::uint64_t published_delta::compressed_bytes() const noexcept {
  std::uint64_t sum = 0;
  for (const auto& p : parts_) sum += p.bytes;
  return sum;
}

std::uint64_t published_delta::look_back_bytes() const {
  std::uint64_t most = 0;
  if (encoding_ == published_encoding::coded) return most;
  std::array<std::byte, frame_header_bytes_max> front;
  for (const auto& p : parts_) {
    const auto head = std::span(front).first(std::min<std::uint64_t>(p.bytes, front.size()));
    files_[p.file]->read(p.offset, head);
    most = std::max(most, frame_window_bytes(head));
  }
  return most;
}

std::unique_ptr<std::byte[]> published_delta::decode(const part& p,
                                                     std::span<const std::byte> old) const {
  auto fresh = std::make_unique_for_overwrite<std::byte[]>(old.size());
  const std::span<std::byte> bytes(fresh.get(), old.size());
  std::vector<std::byte> compressed(static_cast<std::size_t>(p.bytes));
  files_[p.file]->read(p.offset, compressed);
  auto problem = decode_part(encoding_, unit_bytes(shape_[p.tensor].type), compressed, old, bytes);
  if (problem.empty() && published_digest(checksum_, bytes) != p.digest)
    problem = "does not match its checksum: the file is damaged, or made for another base";
  if (!problem.empty())
    refuse(errc::bad_input, files_[p.file]->path(),
           fmt::format("tensor {} {}", in_quotes(shape_[p.tensor].name), problem));
  return fresh;
}

void published_delta::apply(weight_buffer& weights) const {
  if (!(weights.shape() == shape_))
    throw error(errc::wrong_layout, "a delta cannot be applied to weights of another layout");
  // All are proven before the first is written, so that no failure leaves a mix behind.
  std::vector<std::unique_ptr<std::byte[]>> fresh;
  fresh.reserve(parts_.size());
  for (const auto& p : parts_) {
    try {
      fresh.push_back(decode(p, std::as_const(weights).tensor(p.tensor)));
    } catch (const std::bad_alloc&) {
      refuse(errc::no_memory, files_[p.file]->path(),
             fmt::format("tensor {} finds no memory to be decoded in",
                         in_quotes(shape_[p.tensor].name)));
    }
  }
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    const auto live = weights.tensor(parts_[i].tensor);
    std::copy_n(fresh[i].get(), live.size(), live.begin());
  }
}

}  // namespace lockstep
