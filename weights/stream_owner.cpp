#include "weights/stream_owner.hpp"

#include <fcntl.h>
#include <fmt/format.h>
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
#include "weights/system_call.hpp"
#include "weights/unwritable.hpp"
#include "weights/weight_stream.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

std::string fresh_run() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}", random(), random());
}

// What killed publishers left: nobody else is here.
void clear_scratch(const fs::path& out) {
  for (const auto& file : files_in(out))
    if (file.filename().string().starts_with(scratch_directory::prefix)) remove_directory(file);
  remove_rank_staging(out);
}

// Of a published version.
bool is_full(const fs::path& dir) {
  return is_lone_checkpoint(dir) || !read_index(dir).is_delta();
}

// Unpublished first, so that nobody begins to read what is going.
void remove_version(const fs::path& dir) {
  remove_file(dir / index_name);
  sync_directory(dir);
  remove_directory(dir);
}

}  // namespace

stream_owner::stream_owner(publisher_options options) : options_(std::move(options)) {
  make_directories(options_.out);
  lock_ = uninterrupted(
      [&] { return ::open(options_.out.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (lock_ < 0 || uninterrupted([&] { return ::flock(lock_, LOCK_EX | LOCK_NB); }) != 0) {
    const auto code = errno;
    const bool held = lock_ >= 0 && code == EWOULDBLOCK;
    if (lock_ >= 0) ::close(lock_);
    if (!held) refuse_write(options_.out, "cannot be locked", code);
    refuse(errc::unwritable, options_.out, "another process publishes there");
  }
  try {
    clear_scratch(options_.out);
    newest_ = newest_published(options_.out).value_or(0);
    newest_full_ = newest_full_version(options_.out);
    if (const auto dir = published_dir(options_.out, newest_);
        options_.run.empty() && newest_ > 0 && has_index(dir))
      options_.run = metadata_in(dir, own_key::run);
  } catch (...) {
    ::close(lock_);
    throw;
  }
  if (options_.run.empty()) options_.run = fresh_run();
  options_.how.metadata[std::string(own_key::run)] = options_.run;
}

stream_owner::~stream_owner() {
  ::close(lock_);
}

bool stream_owner::gone(std::uint64_t version) const {
  return version < newest_full_ && !has_index(published_dir(options_.out, version));
}

// Readers tell runs apart, and would take a delta to another run's weights for damage.
void stream_owner::require_run(const fs::path& dir) const {
  const auto run = metadata_in(dir, own_key::run);
  if (!run.empty() && run != options_.run)
    refuse(errc::unwritable, dir,
           fmt::format("belongs to the run {}, not {}: only a full version begins another",
                       in_quotes(run), in_quotes(options_.run)));
}

void stream_owner::require_base(std::uint64_t base_version) const {
  const auto dir = published_dir(options_.out, base_version);
  if (has_index(dir)) require_run(dir);
}

// All before a full version from which everybody who matters can be brought up.
std::size_t stream_owner::prune(std::uint64_t newest) const {
  if (options_.keep == 0 || newest < options_.keep) return 0;
  auto bound = newest - options_.keep + 1;
  for (const auto& reader : options_.readers)
    bound = std::min(bound, marker_of(reader).value_or(0) + 1);
  if (options_.slowest) bound = std::min(bound, options_.slowest() + 1);
  std::uint64_t first = 0;
  for (const auto v : published_versions(options_.out))
    if (v <= bound && is_full(published_dir(options_.out, v))) first = v;
  std::size_t removed = 0;
  bool any = false;
  // Those without an index too: who was killed as it removed them has left them.
  for (const auto v : version_numbers(options_.out)) {
    if (v >= first) break;
    const auto dir = published_dir(options_.out, v);
    if (is_lone_checkpoint(dir)) continue;  // no publisher of ours has put it there
    removed += has_index(dir) ? 1 : 0;
    any = true;
    remove_version(dir);
  }
  if (any) sync_directory(options_.out);
  return removed;
}

fs::path rank_staging(const fs::path& stream) {
  return stream / ".lockstep-ranks";
}

// Under another name first: what is written into it meanwhile would keep it from being removed.
void remove_rank_staging(const fs::path& stream) {
  const auto staging = rank_staging(stream);
  if (!stands(staging)) return;
  scratch_directory aside(stream);
  std::error_code failure;
  fs::rename(staging, aside.path() / "ranks", failure);
  if (failure && failure != std::errc::no_such_file_or_directory)
    refuse_write(staging, "cannot be moved away", failure.value());
  aside.remove();
}

std::uint64_t newest_full_version(const fs::path& stream) {
  const auto versions = published_versions(stream);
  for (auto v = versions.rbegin(); v != versions.rend(); ++v) {
    const auto dir = published_dir(stream, *v);
    try {
      if (is_full(dir)) return *v;
    } catch (const error&) {
      if (has_index(dir)) throw;
    }
  }
  return 0;
}

}  // namespace lockstep
