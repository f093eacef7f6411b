#include "weights/publisher.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <system_error>
#include <utility>

#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/host_record.hpp"
#include "weights/plain_file.hpp"
#include "weights/pull.hpp"
#include "weights/state_digest.hpp"
#include "weights/system_call.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view scratch_prefix = ".lockstep-scratch-";

std::string fresh_run() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}", random(), random());
}

std::string metadata_in(const fs::path& dir, std::string_view key) {
  const auto index = read_index(dir);
  const auto at = index.metadata.find(std::string(key));
  return at == index.metadata.end() ? std::string() : at->second;
}

// What stands beside the tensors of a checkpoint: its configuration, its tokenizer.
std::vector<fs::path> companions_of(const checkpoint& source) {
  std::vector<fs::path> out;
  if (!leads_to_directory(source.path())) return out;
  for (const auto& file : files_in(source.path())) {
    const auto name = file.filename().string();
    if (name.starts_with('.') || file.extension() == ".safetensors" || name.ends_with(".tmp") ||
        name == index_name || !fs::is_regular_file(file))
      continue;
    out.push_back(file);
  }
  return out;
}

// What killed publishers left: nobody else is here.
void clear_scratch(const fs::path& out) {
  for (const auto& file : files_in(out))
    if (file.filename().string().starts_with(scratch_prefix)) remove_directory(file);
}

// Unpublished first, so that nobody begins to read what is going.
void remove_version(const fs::path& dir) {
  remove_file(dir / index_name);
  sync_directory(dir);
  remove_directory(dir);
}

}  // namespace

published_source source_of(const checkpoint& from) {
  return {from.shape(), reader_of(from), [&from] { return tensor_digests(from); },
          [&from](std::size_t i, std::uint64_t begin, std::uint64_t end) {
            from.release(i, begin, end);
          },
          companions_of(from)};
}

published_source source_of(const weight_buffer& from) {
  return {from.shape(),
          reader_of(from),
          [&from] { return tensor_digests(from.shape(), reader_of(from)); },
          {},
          {}};
}

publisher::publisher(publisher_options options) : options_(std::move(options)) {
  std::error_code failure;
  fs::create_directories(options_.out, failure);
  if (failure) refuse(errc::unwritable, options_.out, "cannot be made: " + failure.message());
  lock_ = uninterrupted(
      [&] { return ::open(options_.out.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (lock_ < 0 || uninterrupted([&] { return ::flock(lock_, LOCK_EX | LOCK_NB); }) != 0) {
    const bool held = lock_ >= 0 && errno == EWOULDBLOCK;
    const auto why = std::generic_category().message(errno);
    if (lock_ >= 0) ::close(lock_);
    refuse(errc::unwritable, options_.out,
           held ? "another process publishes there" : "cannot be locked: " + why);
  }
  try {
    clear_scratch(options_.out);
    for (const auto v : published_versions(options_.out)) {
      newest_ = v;
      if (!read_index(published_dir(options_.out, v)).is_delta()) newest_full_ = v;
    }
    if (options_.run.empty() && newest_ > 0)
      options_.run = metadata_in(published_dir(options_.out, newest_), own_key::run);
  } catch (...) {
    ::close(lock_);
    throw;
  }
  if (options_.run.empty()) options_.run = fresh_run();
  options_.how.metadata[std::string(own_key::run)] = options_.run;
}

publisher::~publisher() {
  ::close(lock_);
}

// Readers tell runs apart, and would take a delta to another run's weights for damage.
void publisher::require_run(const fs::path& dir) const {
  const auto run = metadata_in(dir, own_key::run);
  if (!run.empty() && run != options_.run)
    refuse(errc::unwritable, dir,
           fmt::format("belongs to the run {}, not {}: only a full version begins another",
                       in_quotes(run), in_quotes(options_.run)));
}

// After an interruption the same call goes on where the last one ended.
bool publisher::is_published(const fs::path& dir, std::uint64_t version,
                             const published_source& target) {
  if (!has_index(dir)) return false;
  digests_ = target.digests();
  digests_of_ = version;
  if (metadata_in(dir, own_key::target) == state_digest(target.shape, digests_)) return true;
  refuse(errc::unwritable, dir, "is published already, and not with these weights");
}

published_version publisher::add(std::uint64_t version, std::uint64_t base_version,
                                 const published_source& base, const published_source& target,
                                 const version_options& special) {
  const auto dir = published_dir(options_.out, version);
  published_version out;
  out.version = version;
  out.full = special.full || (options_.full_every != 0 && version % options_.full_every == 0);
  out.gone = version < newest_full_ && !has_index(dir);
  if (out.gone) return out;
  out.there = is_published(dir, version, target);
  if (out.there) {
    require_run(dir);
    if (version >= newest_) out.removed = prune(version);
    return out;
  }
  if (const auto from = published_dir(options_.out, base_version); !out.full && has_index(from))
    require_run(from);
  auto how = options_.how;
  how.digests = &digests_;
  how.metadata.insert(special.metadata.begin(), special.metadata.end());
  how.done = [&](std::size_t i, std::uint64_t begin, std::uint64_t end) {
    if (base.done) base.done(i, begin, end);
    if (target.done) target.done(i, begin, end);
  };
  if (out.full) {
    how.companions = target.companions;
    out.bytes = publish_full(options_.out, version, target.shape, target.tensors, how);
  } else {
    if (digests_of_ != base_version) digests_.assign(base.shape.count(), std::string());
    digests_of_.reset();
    out.bytes = publish_delta(options_.out, version, base_version, target.shape, base.tensors,
                              target.tensors, how);
  }
  digests_of_ = version;
  out.removed = prune(version);
  return out;
}

// All before a full version from which everybody who matters can be brought up.
std::size_t publisher::prune(std::uint64_t newest) const {
  if (options_.keep == 0 || newest < options_.keep) return 0;
  auto bound = newest - options_.keep + 1;
  for (const auto& reader : options_.readers)
    bound = std::min(bound, marker_of(reader).value_or(0) + 1);
  if (options_.slowest) bound = std::min(bound, options_.slowest() + 1);
  const auto versions = published_versions(options_.out);
  std::uint64_t first = 0;
  for (const auto v : versions)
    if (v <= bound && !read_index(published_dir(options_.out, v)).is_delta()) first = v;
  std::size_t removed = 0;
  for (const auto v : versions) {
    if (v >= first) break;
    remove_version(published_dir(options_.out, v));
    ++removed;
  }
  if (removed > 0) sync_directory(options_.out);
  return removed;
}

scratch_directory::scratch_directory(const fs::path& beside) {
  std::error_code failure;
  fs::create_directories(beside, failure);
  if (failure) refuse(errc::unwritable, beside, "cannot be made: " + failure.message());
  auto name = (beside / (std::string(scratch_prefix) + "XXXXXX")).string();
  if (!::mkdtemp(name.data()))
    refuse(errc::unwritable, beside,
           "cannot be written to: " + std::generic_category().message(errno));
  path_ = name;
}

void scratch_directory::remove() {
  remove_directory(path_);
}

scratch_directory::~scratch_directory() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

}  // namespace lockstep
