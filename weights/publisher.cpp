#include "weights/publisher.hpp"

#include <stdlib.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/plain_file.hpp"
#include "weights/state_digest.hpp"
#include "weights/stream_owner.hpp"
#include "weights/unwritable.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

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

decltype(published_source::done) done_of(const published_source& base,
                                         const published_source& target) {
  return [&](std::size_t i, std::uint64_t begin, std::uint64_t end) {
    if (base.done) base.done(i, begin, end);
    if (target.done) target.done(i, begin, end);
  };
}

publisher::publisher(publisher_options options)
    : owner_(std::make_unique<stream_owner>(std::move(options))) {}

publisher::~publisher() = default;

const std::string& publisher::run() const noexcept {
  return owner_->options().run;
}

const fs::path& publisher::stream() const noexcept {
  return owner_->path();
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
  const auto dir = published_dir(stream(), version);
  published_version out;
  out.version = version;
  out.full = special.full || owner_->makes_full(version);
  out.gone = owner_->gone(version);
  if (out.gone) return out;
  out.there = is_published(dir, version, target);
  if (out.there) {
    owner_->require_run(dir);
    if (version >= owner_->newest()) out.removed = owner_->prune(version);
    return out;
  }
  if (!out.full) owner_->require_base(base_version);
  auto how = owner_->options().how;
  how.digests = &digests_;
  how.metadata.insert(special.metadata.begin(), special.metadata.end());
  how.done = done_of(base, target);
  if (out.full) {
    how.companions = target.companions;
    out.bytes = publish_full(stream(), version, target.shape, target.tensors, how);
  } else {
    if (digests_of_ != base_version) digests_.assign(base.shape.count(), std::string());
    digests_of_.reset();
    out.bytes = publish_delta(stream(), version, base_version, target.shape, base.tensors,
                              target.tensors, how);
  }
  digests_of_ = version;
  out.removed = owner_->prune(version);
  return out;
}

scratch_directory::scratch_directory(const fs::path& beside) {
  make_directories(beside);
  auto name = (beside / (std::string(scratch_directory::prefix) + "XXXXXX")).string();
  if (!::mkdtemp(name.data())) refuse_write(beside, "cannot be written to", errno);
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
