#include "weights/checkpoint.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string_view>
#include <utility>

#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/safetensors.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

using file_ptr = std::shared_ptr<const safetensors_file>;

// Opens the shards of an index and holds each to exactly the tensors mapped to it.
std::vector<file_ptr> open_shards(const fs::path& dir, const checkpoint_index& index) {
  const auto shards = index.shards();
  std::vector<file_ptr> files;
  for (const auto& [shard, mapped] : shards) {
    auto file = std::make_shared<const safetensors_file>(dir / shard);
    require_mapped(file->header(), file->path(), mapped);
    files.push_back(std::move(file));
  }
  return files;
}

std::vector<file_ptr> open_directory(const fs::path& dir) {
  const auto single = dir / single_file_name;
  if (!has_index(dir)) {
    if (!stands(single))
      refuse(errc::bad_input, dir,
             fmt::format("holds neither {} nor {}", single_file_name, index_name));
    return {std::make_shared<const safetensors_file>(single)};
  }
  const auto index = read_index(dir);
  if (index.is_delta()) refuse(errc::bad_input, index.path, "describes a delta, not a checkpoint");
  auto files = open_shards(dir, index);
  // Loaders disagree on which of the two counts, so a file that is not the index's own would be
  // read by some of them and not by others.
  if (stands(single) && !index.shards().contains(std::string(single_file_name)))
    refuse(errc::bad_input, single, "stands beside an index that does not name it");
  return files;
}

std::string describe(const tensor_spec& spec) {
  return fmt::format("{} [{}]", to_string(spec.type), fmt::join(spec.shape, ", "));
}

}  // namespace

checkpoint checkpoint::open(const fs::path& path) {
  checkpoint result;
  result.path_ = path;
  result.read_files();
  result.require_tensors();
  return result;
}

checkpoint checkpoint::open_ranks(const fs::path& path) {
  checkpoint result;
  result.path_ = path;
  result.read_rank_files();
  result.require_tensors();
  return result;
}

checkpoint checkpoint::open_rank(const fs::path& path) {
  checkpoint result;
  result.path_ = path;
  result.read_rank_files();
  // A mistyped directory would be a rank without tensors else.
  if (result.files_.empty() && !has_index(path))
    refuse(errc::bad_input, path, "holds no file: a rank without tensors has one without tensors");
  return result;
}

void checkpoint::read_files() {
  if (leads_to_directory(path_))
    files_ = open_directory(path_);
  else
    files_ = {std::make_shared<const safetensors_file>(path_)};
  take_files();
}

void checkpoint::read_rank_files() {
  if (!leads_to_directory(path_) || has_index(path_) || stands(path_ / single_file_name))
    return read_files();
  for (const auto& file : files_in(path_))
    if (file.extension() == ".safetensors")
      files_.push_back(std::make_shared<const safetensors_file>(file));
  take_files();
}

void checkpoint::require_tensors() const {
  if (shape_.count() == 0) refuse(errc::bad_input, path_, "holds no tensor");
}

void checkpoint::take_files() {
  struct source {
    std::size_t file;
    std::size_t index;
  };
  std::map<std::string_view, source> sources;
  std::vector<tensor_spec> specs;
  for (std::size_t f = 0; f < files_.size(); ++f)
    for (std::size_t i = 0; i < files_[f]->count(); ++i) {
      const auto& spec = files_[f]->spec(i);
      const auto [at, fresh] = sources.try_emplace(spec.name, source{f, i});
      if (fresh) {
        specs.push_back(spec);
        continue;
      }
      const auto& other = *files_[at->second.file];
      const auto a = other.bytes(at->second.index);
      const auto b = files_[f]->bytes(i);
      if (!(other.spec(at->second.index) == spec) || !std::equal(a.begin(), a.end(), b.begin()))
        refuse(errc::bad_input, files_[f]->path(),
               fmt::format("tensor {} is another than in {}", in_quotes(spec.name),
                           other.path().filename().string()));
    }
  shape_ = layout(std::move(specs));
  for (const auto& spec : shape_.tensors()) {
    const auto [f, i] = sources.at(spec.name);
    tensors_.push_back(files_[f]->bytes(i));
    file_of_.push_back(f);
    offsets_.push_back(files_[f]->offset(i));
  }
}

void checkpoint::release(std::size_t index, std::uint64_t begin, std::uint64_t end) const noexcept {
  constexpr std::uintptr_t page = 4096;
  const auto first = reinterpret_cast<std::uintptr_t>(tensors_[index].data());
  // Outward: a page that a neighbour shares is read from the file again.
  const auto from = (first + begin) / page * page;
  const auto to =
      (first + std::min<std::uint64_t>(end, tensors_[index].size()) + page - 1) / page * page;
  if (from < to) ::madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
}

const fs::path& checkpoint::file(std::size_t number) const {
  return files_[number]->path();
}

void checkpoint::require(const layout& expected) const {
  for (std::size_t i = 0; i < std::max(expected.count(), shape_.count()); ++i) {
    const bool ours = i < shape_.count();
    const bool theirs = i < expected.count();
    // Both are sorted, so at the first difference the smaller name is the one that the other lacks.
    if (!ours || (theirs && expected[i].name < shape_[i].name))
      refuse(errc::wrong_layout, path_,
             fmt::format("lacks tensor {} of the base", in_quotes(expected[i].name)));
    const auto& file = files_[file_of_[i]]->path();
    const auto name = in_quotes(shape_[i].name);
    if (!theirs || shape_[i].name < expected[i].name)
      refuse(errc::wrong_layout, file, fmt::format("tensor {} is not in the base", name));
    if (!(shape_[i] == expected[i]))
      refuse(errc::wrong_layout, file,
             fmt::format("tensor {} is {}, but the base has {}", name, describe(shape_[i]),
                         describe(expected[i])));
  }
}

}  // namespace lockstep
