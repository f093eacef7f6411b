#include "weights/weight_stream.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <tuple>

#include "weights/checkpoint.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/published.hpp"
#include "weights/published_shards.hpp"
#include "weights/safetensors.hpp"
#include "weights/unwritable.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view digits = "0123456789";

// The number at the end of a version directory's name, if there is one. Hidden directories are
// bookkeeping.
std::optional<std::uint64_t> number_of(const fs::path& dir) {
  const auto name = dir.filename().string();
  const auto last = name.find_last_not_of(digits);
  const auto start = last == std::string::npos ? 0 : last + 1;
  if (start == name.size() || name.starts_with('.')) return std::nullopt;
  std::uint64_t number = 0;
  if (std::from_chars(name.data() + start, name.data() + name.size(), number).ec != std::errc())
    refuse(errc::bad_input, dir, "its number is too large");
  return number;
}

bool is_published_name(const fs::path& dir) {
  const auto name = dir.filename().string();
  constexpr std::string_view prefix = "weight_v";
  return name.starts_with(prefix) && name.find_first_not_of(digits, prefix.size()) == name.npos;
}

checkpoint open_full(const fs::path& dir, const layout& expected) {
  if (is_published_name(dir)) {
    if (has_index(dir))
      require_whole_version(dir, read_index(dir));
    else
      require_lone_checkpoint(dir, &expected);
  }
  auto result = checkpoint::open(dir);
  result.require(expected);
  return result;
}

published_delta open_delta(const weight_stream::entry& e, std::uint64_t base,
                           const layout& expected) {
  auto delta = published_delta::open(e.dir, expected);
  if (delta.version() != e.version)
    refuse(errc::bad_input, e.dir / index_name,
           fmt::format("says it is version {}, not {}", delta.version(), e.version));
  if (delta.base_version() != base)
    refuse(errc::wrong_base, e.dir,
           fmt::format("is a delta to version {}, but the version before it is {}",
                       delta.base_version(), base));
  return delta;
}

weight_stream::kind kind_of(const fs::path& dir) {
  const bool delta = has_index(dir) && read_index(dir).is_delta();
  return delta ? weight_stream::kind::delta : weight_stream::kind::full;
}

std::vector<weight_stream::entry> list(const fs::path& dir) {
  std::vector<weight_stream::entry> result;
  for (const auto& file : files_in(dir)) {
    // A link that leads nowhere is a version that got lost, not none.
    std::error_code unseen;
    const auto type = fs::status(file, unseen).type();
    if (type == fs::file_type::none) refuse_read(file, "cannot be looked at", unseen.value());
    if (type != fs::file_type::directory && type != fs::file_type::not_found) continue;
    const auto number = number_of(file);
    if (number && *number != 0) result.push_back({*number, file, weight_stream::kind::full});
  }
  if (result.empty()) refuse(errc::bad_input, dir, "holds no version");
  std::sort(result.begin(), result.end(), [](const auto& a, const auto& b) {
    return std::tie(a.version, a.dir) < std::tie(b.version, b.dir);
  });
  for (std::size_t i = 1; i < result.size(); ++i)
    if (result[i].version == result[i - 1].version)
      refuse(errc::bad_input, result[i].dir,
             fmt::format("has the same number as {}", result[i - 1].dir.filename().string()));
  return result;
}

}  // namespace

weight_stream weight_stream::open(const fs::path& dir, const layout& expected) {
  weight_stream result;
  result.expected_ = expected;
  result.versions_ = list(dir);
  std::uint64_t previous = 0;
  for (auto& e : result.versions_) {
    e.what = kind_of(e.dir);
    if (e.what == kind::full)
      open_full(e.dir, expected);
    else
      open_delta(e, previous, expected);
    previous = e.version;
  }
  return result;
}

void weight_stream::load(std::size_t index, weight_buffer& weights) const {
  if (!(weights.shape() == expected_))
    throw error(errc::wrong_layout, "a version cannot be loaded into weights of another layout");
  const auto& e = versions_[index];
  if (e.what == kind::full)
    weights.copy_from(open_full(e.dir, expected_));
  else
    open_delta(e, index == 0 ? 0 : versions_[index - 1].version, expected_).apply(weights);
}

void require_lone_checkpoint(const fs::path& dir, const layout* expected) {
  const auto unpublished = [&](const std::string& why) {
    refuse(errc::bad_input, dir,
           fmt::format("has no {}: it is not published yet, and {}", index_name, why));
  };
  std::size_t files = 0;
  for (const auto& file : files_in(dir))
    if (file.extension() == ".safetensors") ++files;
  if (files != 1 || !stands(dir / single_file_name))
    unpublished(fmt::format("no checkpoint in a single {} either", single_file_name));
  const safetensors_file file(dir / single_file_name);
  for (std::size_t i = 0; i < file.count(); ++i) {
    const auto& spec = file.spec(i);
    const auto at = expected ? expected->find(spec.name) : std::nullopt;
    if (expected && (!at || !((*expected)[*at] == spec)))
      unpublished(fmt::format("tensor {} of its {} is not as in the base", in_quotes(spec.name),
                              single_file_name));
    if (file.metadata().contains(spec.name))
      unpublished(fmt::format("its {} is part of a delta: it has a checksum for tensor {}",
                              single_file_name, in_quotes(spec.name)));
  }
}

bool is_lone_checkpoint(const fs::path& dir) {
  try {
    if (has_index(dir) || !stands(dir / single_file_name)) return false;
    require_lone_checkpoint(dir, nullptr);
    return true;
  } catch (const error&) {
    return false;
  }
}

bool is_published_version(const fs::path& dir) {
  return has_index(dir) || is_lone_checkpoint(dir);
}

void require_whole_version(const fs::path& dir, const checkpoint_index& index) {
  for (const auto& [shard, mapped] : index.shards()) {
    const safetensors_file file(dir / shard);
    for (const auto& tensor : mapped)
      if (file.metadata().contains(tensor))
        refuse(errc::bad_input, file.path(),
               fmt::format("is part of a delta, as it has a checksum for tensor {}, but {} does "
                           "not say which",
                           in_quotes(tensor), index_name));
  }
  refuse_strays(dir, index);
}

}  // namespace lockstep
