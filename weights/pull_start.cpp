#include "weights/pull_start.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "messages/transient.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/published.hpp"
#include "weights/pull.hpp"
#include "weights/pull_plan.hpp"
#include "weights/state_digest.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

// What is said of a version. One below the target that cannot be read, for it is damaged or being
// removed, says nothing: no pull needs it but to know a host by it. Who needs the target says so.
template <class Read>
auto said_of(std::uint64_t version, std::uint64_t target, Read read) -> decltype(read()) {
  try {
    return read();
  } catch (const error& e) {
    if (version == target || is_transient(e)) throw;
    return {};
  }
}

// A stream that was begun anew over a directory that was kept looks the same but for this.
bool is_other_run(const fs::path& source, const version_record& ours, std::uint64_t target) {
  const auto noted = [&](std::uint64_t version) -> std::optional<version_record> {
    return said_of(version, target, [&]() -> std::optional<version_record> {
      if (!has_index(published_dir(source, version))) return std::nullopt;
      return record_of(source, version);
    });
  };
  if (const auto same = noted(ours.version); same && !ours.index.empty())
    return same->index != ours.index;
  const auto newest = noted(target);
  return newest && !ours.run.empty() && !newest->run.empty() && newest->run != ours.run;
}

/// The digests of whole states that a stream states, newest first.
class stated_states {
 public:
  stated_states(const fs::path& source, std::uint64_t target) {
    auto versions = published_versions(source);
    for (auto v = versions.rbegin(); v != versions.rend(); ++v) {
      if (*v > target) continue;
      const auto index = said_of(*v, target, [&] {
        const auto dir = published_dir(source, *v);
        if (!has_index(dir)) return checkpoint_index();  // a lone file
        require_inside(source, dir / index_name);
        return read_index(dir);
      });
      add(*v, stated(index, own_key::target));
      if (const auto base = parse_version(stated(index, "base_version")); index.is_delta() && base)
        add(*base, stated(index, own_key::base));
    }
  }

  bool empty() const { return all_.empty(); }

  std::optional<std::uint64_t> version_of(const std::string& state) const {
    const auto at = std::find_if(all_.begin(), all_.end(),
                                 [&](const auto& entry) { return entry.second == state; });
    return at == all_.end() ? std::nullopt : std::optional(at->first);
  }

 private:
  void add(std::uint64_t version, const std::string& state) {
    if (!state.empty()) all_.emplace_back(version, state);
  }

  std::vector<std::pair<std::uint64_t, std::string>> all_;
};

/// Compares a checkpoint with all that a stream says of one version.
class proving {
 public:
  proving(const fs::path& source, const checkpoint& live, std::uint64_t version,
          const std::function<bool()>& stopping)
      : source_(source),
        live_(live),
        version_(version),
        stopping_(stopping),
        seen_(live.shape().count()),
        digests_(digests_of(live)) {}

  std::uint64_t own() {
    compare(version_);
    return compared_;
  }

  std::uint64_t all(std::string state) {
    const auto dir = published_dir(source_, version_);
    if (has_index(dir))
      if (const auto said = stated(read_index(dir), own_key::target); !said.empty()) state = said;
    const auto held = state_digest(live_.shape(), digests_);
    if (held == state) return live_.shape().total_bytes();
    for (std::optional<std::uint64_t> at = version_; at && *at != 0;) at = compare(*at);
    if (!state.empty()) refuse_version(fmt::format("its digest is {}, not {}", held, state));
    return compared_;
  }

 private:
  std::vector<std::string> digests_of(
      const checkpoint& from, published_checksum format = published_checksum::xxh3_128) const {
    return tensor_digests(from, format, stopping_);
  }

  /// Compares the tensors that `version` carries and no later one did. Returns its base.
  std::optional<std::uint64_t> compare(std::uint64_t version) {
    const auto dir = published_dir(source_, version);
    if (!stands(dir)) return std::nullopt;  // removed
    require_files_inside(source_, dir);
    if (!has_index(dir) || !read_index(dir).is_delta()) {
      compare_full(checkpoint::open(dir));
      return std::nullopt;
    }
    const auto delta = published_delta::open(dir, live_.shape());
    const bool as_is = delta.checksum() == published_checksum::xxh3_128;
    if (!as_is && others_.empty()) others_ = digests_of(live_, delta.checksum());
    for (std::size_t p = 0; p < delta.count(); ++p)
      compare(delta.tensor(p), (as_is ? digests_ : others_)[delta.tensor(p)], delta.digest(p));
    return delta.base_version();
  }

  void compare_full(const checkpoint& full) {
    full.require(live_.shape());
    const auto theirs = digests_of(full);
    for (std::size_t i = 0; i < theirs.size(); ++i) compare(i, digests_[i], theirs[i]);
  }

  void compare(std::size_t tensor, const std::string& held, const std::string& said) {
    if (seen_[tensor]) return;
    seen_[tensor] = true;
    compared_ += live_.shape().bytes(tensor);
    if (held != said)
      refuse_version(fmt::format("its tensor {} is not that version's",
                                 in_quotes(live_.shape()[tensor].name)));
  }

  [[noreturn]] void refuse_version(const std::string& why) const {
    refuse(errc::wrong_base, live_.path(),
           fmt::format("says it is at version {}, but {}; --rebuild takes a whole checkpoint",
                       version_, why));
  }

  const fs::path& source_;
  const checkpoint& live_;
  std::uint64_t version_;
  const std::function<bool()>& stopping_;
  std::vector<bool> seen_;
  std::vector<std::string> digests_;
  std::vector<std::string> others_;  // in the other format, once it is met
  std::uint64_t compared_ = 0;
};

}  // namespace

pull_start nothing_held(std::string why, errc reason) {
  pull_start out;
  out.why = std::move(why);
  out.reason = reason;
  return out;
}

pull_start from_nothing() {
  return nothing_held("is not what its deltas start from");
}

void require_not_later(const fs::path& dir, std::uint64_t version, std::uint64_t target) {
  if (version > target)
    refuse(errc::wrong_base, dir, fmt::format("is at version {}, later than {}", version, target));
}

std::optional<checkpoint> open_held(const fs::path& dir, pull_start& none) {
  if (!holds_checkpoint(dir)) {
    none = nothing_held("holds no checkpoint");
    return std::nullopt;
  }
  try {
    return checkpoint::open(dir);
  } catch (const error& e) {
    if (e.code() != errc::bad_input || is_transient(e)) throw;
    none =
        nothing_held(std::string("is damaged and cannot be read (") + e.what() + ")", errc::torn);
    return std::nullopt;
  }
}

std::optional<checkpoint> open_held(const fs::path& dir) {
  pull_start none;
  return open_held(dir, none);
}

pull_start find_start(const fs::path& source, const fs::path& dir,
                      const std::optional<std::uint64_t>& marker,
                      const std::optional<version_record>& record, std::uint64_t target,
                      const std::function<bool()>& stopping) {
  pull_start out;
  const auto live = open_held(dir, out);
  if (!live) return out;
  out.version = record ? record->version : marker.value_or(0);
  if (!record) return out;
  const auto written = written_since(dir, *record);
  // Who took the marker away meant to change files, or did.
  const bool as_left = !written && (marker || !record->files.empty());
  const bool other = is_other_run(source, *record, target);
  if (as_left && !other) return out;
  std::string why;
  if (as_left)
    why = fmt::format("is at version {} of another run", record->version);
  else if (written)
    why = fmt::format("was brought to version {}, but others have changed {} since",
                      record->version, in_quotes(*written));
  else
    why = fmt::format("was brought to version {}, but others have taken the marker away",
                      record->version);
  const stated_states states(source, target);
  if (states.empty() && record->state.empty())
    return nothing_held(why + ", and no digest says what it is");
  const auto state =
      as_left && !record->state.empty() ? record->state : state_digest(*live, stopping);
  out.by_digest = true;
  out.state = state;
  if (!other && state == record->state) return out;
  out.version = states.version_of(state);
  if (out.version) return out;
  return nothing_held(why + ", to what is no version of the stream");
}

std::uint64_t prove_version(const fs::path& source, const checkpoint& live, std::uint64_t version,
                            const std::string& state, proof much,
                            const std::function<bool()>& stopping) {
  require_inside(source, published_dir(source, version));
  proving work(source, live, version, stopping);
  return much == proof::own ? work.own() : work.all(state);
}

bool is_for_others(const fs::path& source, std::uint64_t version, std::uint64_t target,
                   const version_record& ours, const std::string& name) {
  const auto dir = published_dir(source, version);
  if (!has_index(dir)) return false;
  const auto index = said_of(version, target, [&] {
    require_inside(source, dir / index_name);
    return read_index(dir);
  });
  const auto names = stated(index, own_key::meant_for);
  return !index.is_delta() && !names.empty() &&
         (',' + names + ',').find(',' + name + ',') == std::string::npos && !ours.state.empty() &&
         ours.version + 1 == version && ours.state == stated(index, own_key::target);
}

bool is_by_base(const fs::path& delta, const fs::path& live, const error& why,
                const std::function<bool()>& stopping) {
  if (why.code() != errc::bad_input || is_transient(why)) return false;
  try {
    const auto base = stated(read_index(delta), own_key::base);
    return !base.empty() && base != state_digest(checkpoint::open(live), stopping);
  } catch (const error& e) {
    if (e.code() == errc::shut_down) throw;
    return false;  // what was wrong in the first place is what is said
  }
}

}  // namespace lockstep
