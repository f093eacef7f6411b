#include "weights/checkpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
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
    require_mapped(*file, mapped);
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
  std::error_code failure;
  if (fs::is_directory(path, failure))
    result.files_ = open_directory(path);
  else
    result.files_ = {std::make_shared<const safetensors_file>(path)};

  std::vector<tensor_spec> specs;
  for (const auto& file : result.files_)
    for (std::size_t i = 0; i < file->count(); ++i) specs.push_back(file->spec(i));
  if (specs.empty()) refuse(errc::bad_input, path, "holds no tensor");
  result.shape_ = layout(std::move(specs));

  result.tensors_.resize(result.shape_.count());
  result.file_of_.resize(result.shape_.count());
  for (std::size_t f = 0; f < result.files_.size(); ++f) {
    const auto& file = *result.files_[f];
    for (std::size_t i = 0; i < file.count(); ++i) {
      const auto at = *result.shape_.find(file.spec(i).name);
      result.tensors_[at] = file.bytes(i);
      result.file_of_[at] = f;
    }
  }
  return result;
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
