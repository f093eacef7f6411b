#include "weights/pull_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <string_view>

#include "messages/transient.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/plain_file.hpp"
#include "weights/published.hpp"
#include "weights/pull.hpp"
#include "weights/pull_start.hpp"
#include "weights/safetensors.hpp"
#include "weights/state_digest.hpp"
#include "weights/unwritable.hpp"
#include "weights/weight_stream.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

std::uint64_t number_in(const checkpoint_index& index, const std::string& key) {
  const auto at = index.metadata.find(key);
  if (at == index.metadata.end()) refuse(errc::bad_input, index.path, "has no " + key);
  const auto number = parse_version(at->second);
  if (!number)
    refuse(errc::bad_input, index.path,
           fmt::format("its {} {} is not a number", key, in_quotes(at->second)));
  return *number;
}

void update(published_hasher& hash, std::string_view text) {
  hash.update(std::as_bytes(std::span(text)));
  hash.update(std::as_bytes(std::span<const char>("\n", 1)));
}

// Indexes of two runs may be alike to the byte; the checksums in the shards are not. Of a full
// version only our own index says what it holds.
std::string identity_of(const checkpoint_index& index, const fs::path& dir) {
  if (!index.is_delta() && !index.metadata.contains(std::string(own_key::target))) return {};
  published_hasher hash(published_checksum::xxh3_128);
  update(hash, read_small(index.path, file_limits().index_bytes_max));
  if (index.is_delta())
    for (const auto& [shard, mapped] : index.shards()) {
      const safetensors_file file(dir / shard);
      for (const auto& [tensor, digest] : file.metadata()) {
        update(hash, tensor);
        update(hash, digest);
      }
    }
  return hash.digest();
}

version_record record_in(const checkpoint_index& index, const fs::path& source,
                         std::uint64_t version) {
  const auto dir = published_dir(source, version);
  require_files_inside(source, dir);
  const auto run = index.metadata.find(std::string(own_key::run));
  return {version,
          run == index.metadata.end() ? std::string() : run->second,
          identity_of(index, dir),
          {},
          {}};
}

// A delta's index, held to be that version's; of an ordinary checkpoint nothing is asked.
checkpoint_index index_of(const fs::path& dir, std::uint64_t version) {
  auto index = read_index(dir);
  if (!index.is_delta()) return index;
  if (const auto said = number_in(index, "version"); said != version)
    refuse(errc::bad_input, index.path,
           fmt::format("says it is version {}, not {}", said, version));
  return index;
}

// Of a version that is not needed: none while it is damaged, or being removed.
std::optional<checkpoint_index> readable_index(const fs::path& dir) {
  if (!has_index(dir)) return std::nullopt;
  try {
    return read_index(dir);
  } catch (const error& e) {
    if (is_transient(e)) throw;
    return std::nullopt;
  }
}

void require_there(const fs::path& dir, std::uint64_t version, std::uint64_t later) {
  if (stands(dir)) return;
  refuse(errc::bad_input, dir,
         version == later ? std::string("is not there: that version is not published")
                          : fmt::format("is not there, but version {} is based on it", later));
}

// One of them is wrong, and a checkpoint that is what the earlier one says would be taken for
// damaged and replaced, again and again.
void require_agreed(const checkpoint_index& earlier, const std::string& base_state,
                    const fs::path& later) {
  const auto target = stated(earlier, own_key::target);
  if (base_state.empty() || target.empty() || base_state == target) return;
  refuse(
      errc::bad_input, later / index_name,
      fmt::format("says its base has the digest {}, but {} says {}: the stream contradicts itself",
                  printable(base_state), earlier.path.parent_path().filename().string(),
                  printable(target)));
}

bool still_there(const plan_step& step) {
  if (!has_index(step.dir)) return !step.indexed && stands(step.dir / single_file_name);
  const auto shards = read_index(step.dir).shards();
  return std::ranges::all_of(shards,
                             [&](const auto& shard) { return stands(step.dir / shard.first); });
}

}  // namespace

pull_plan plan_pull(const fs::path& source, std::uint64_t target, const pull_start& from,
                    bool has_base, const layout* expected) {
  pull_plan plan;
  const auto held = from.version.value_or(0);
  auto later = target;
  std::string base_state;  // what `later` says of its base
  for (auto at = target; at != held;) {
    const auto dir = published_dir(source, at);
    require_there(dir, at, later);
    require_inside(source, dir);
    if (!has_index(dir)) {
      require_lone_checkpoint(dir, expected);
      plan.whole = plan_step{dir, {at, {}, {}, {}, {}}, false};
      break;
    }
    require_inside(source, dir / index_name);
    const auto index = index_of(dir, at);
    plan_step step{dir, record_in(index, source, at)};
    require_agreed(index, base_state, published_dir(source, later));
    if (!index.is_delta()) {
      require_whole_version(dir, index);
      plan.whole = std::move(step);
      break;
    }
    const auto base = number_in(index, "base_version");
    if (base >= at)
      refuse(errc::bad_input, index.path, fmt::format("its base {} is not earlier", base));
    if (base < held)
      refuse(
          errc::wrong_base, dir,
          fmt::format("is a delta to version {}, but the checkpoint is at version {}", base, held));
    plan.deltas.push_back(std::move(step));
    later = at;
    base_state = stated(index, own_key::base);
    at = base;
  }
  if (!plan.whole && !base_state.empty())
    if (const auto index = readable_index(published_dir(source, held)))
      require_agreed(*index, base_state, published_dir(source, later));
  std::reverse(plan.deltas.begin(), plan.deltas.end());
  if (!plan.whole && !from.version && !has_base)
    refuse(from.reason, source,
           fmt::format("has no full version up to {}, and the checkpoint {}: a base is needed",
                       target, from.why));
  return plan;
}

bool still_there(const pull_plan& plan) {
  return (!plan.whole || still_there(*plan.whole)) &&
         std::ranges::all_of(plan.deltas, [](const auto& step) { return still_there(step); });
}

std::string stated(const checkpoint_index& index, std::string_view key) {
  const auto at = index.metadata.find(std::string(key));
  return at == index.metadata.end() ? std::string() : at->second;
}

version_record record_of(const fs::path& source, std::uint64_t version) {
  const auto dir = published_dir(source, version);
  require_inside(source, dir / index_name);
  return record_in(read_index(dir), source, version);
}

bool holds_checkpoint(const fs::path& dir) {
  return stands(dir / single_file_name) || has_index(dir);
}

std::vector<std::string> names_to_copy(const fs::path& dir) {
  std::vector<std::string> names;
  const auto weights = weight_files(dir);
  for (const auto& file : files_in(dir)) {
    const auto name = file.filename().string();
    if (name.starts_with('.') || name.ends_with(".tmp") || leads_to_directory(file)) continue;
    // No delta would reach what the index does not name.
    if (file.extension() == ".safetensors" && !std::ranges::binary_search(weights, name)) continue;
    names.push_back(name);
  }
  return names;
}

void require_inside(const fs::path& root, const fs::path& path) {
  std::error_code failure;
  const auto whole = fs::canonical(root, failure);
  if (failure) refuse_read(root, "cannot be found", failure.value());
  const auto real = fs::canonical(path, failure);
  if (failure) refuse_read(path, "cannot be found", failure.value());
  const auto [end, rest] = std::mismatch(whole.begin(), whole.end(), real.begin(), real.end());
  if (end != whole.end()) refuse(errc::bad_input, path, "is a link that leads out of the stream");
}

void require_files_inside(const fs::path& root, const fs::path& dir) {
  for (const auto& file : files_in(dir)) require_inside(root, file);
}

std::vector<std::uint64_t> version_numbers(const fs::path& source) {
  std::vector<std::uint64_t> out;
  constexpr std::string_view prefix = "weight_v";
  for (const auto& dir : files_in(source)) {
    const auto name = dir.filename().string();
    if (!name.starts_with(prefix)) continue;
    const auto number = parse_version(name.substr(prefix.size()));
    if (number && *number != 0 && published_dir(source, *number) == dir) out.push_back(*number);
  }
  std::sort(out.begin(), out.end());
  return out;
}

std::vector<std::uint64_t> published_versions(const fs::path& source) {
  auto out = version_numbers(source);
  std::erase_if(out, [&](auto v) { return !is_published_version(published_dir(source, v)); });
  return out;
}

std::optional<std::uint64_t> newest_published(const fs::path& source) {
  // From the top: of a stream with thousands of versions those below are not looked at.
  const auto all = version_numbers(source);
  const auto at = std::find_if(all.rbegin(), all.rend(), [&](std::uint64_t version) {
    return is_published_version(published_dir(source, version));
  });
  return at == all.rend() ? std::nullopt : std::optional(*at);
}

}  // namespace lockstep
