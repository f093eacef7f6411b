#include "weights/pull_stage.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>

#include "weights/byte_changes.hpp"
#include "weights/file.hpp"
#include "weights/part_stream.hpp"
#include "weights/plain_file.hpp"
#include "weights/scratch_weights.hpp"
#include "weights/state_digest.hpp"
#include "weights/tensor_windows.hpp"
#include "weights/workers.hpp"

namespace lockstep {

namespace {

// zstd's own limit for streams. Several frames at a time get less: what publishers write, and more.
constexpr int window_log_max = 27;
constexpr int window_log_max_each = 24;
static_assert(staged_window_bytes_max == std::uint64_t{1} << window_log_max_each);
static_assert(part_stream::window_bytes == tensor_window_bytes);

const std::string& metadata_of(const published_delta& d, std::string_view key) {
  static const std::string none;
  const auto at = d.metadata().find(std::string(key));
  return at == d.metadata().end() ? none : at->second;
}

// A tensor's part in one of the deltas.
struct level {
  std::size_t delta;
  std::size_t part;
};

class staging {
 public:
  staging(const checkpoint& live, std::span<const published_delta> deltas, const stage_place& to,
          const stage_progress& progress)
      : live_(live), deltas_(deltas), to_(to), progress_(progress), levels_(live.shape().count()) {
    for (std::size_t d = 0; d < deltas.size(); ++d) {
      for (std::size_t p = 0; p < deltas[d].count(); ++p)
        levels_[deltas[d].tensor(p)].push_back({d, p});
      want_states_ = want_states_ || !metadata_of(deltas[d], own_key::base).empty() ||
                     !metadata_of(deltas[d], own_key::target).empty();
    }
    for (std::size_t i = 0; i < levels_.size(); ++i)
      if (want_states_ || !levels_[i].empty()) tensors_.push_back(i);
    // The largest first, so that none of them is left for the end.
    std::stable_sort(tensors_.begin(), tensors_.end(), [&](std::size_t a, std::size_t b) {
      return live.shape().bytes(a) > live.shape().bytes(b);
    });
    for (const auto i : tensors_) all_bytes_ += live.shape().bytes(i);
    for (std::size_t f = 0; f < live.file_count(); ++f)
      files_.emplace_back(live.file(f), plain_file::access::read);
    digests_.resize(levels_.size());
  }

  staged_deltas run() {
    for_each_index(tensors_.size(), [&](std::size_t i) { read(tensors_[i]); });
    return {changed_bytes_, want_states_ ? compare_states() : std::string()};
  }

 private:
  struct stage_of_part {
    level of;
    part_stream stream;
    published_hasher checksum;
    std::optional<published_hasher> xxh3;  // where the state's digest needs it and it is another
  };

  [[noreturn]] void refuse_part(const level& l, std::size_t tensor, const std::string& what) const {
    refuse(errc::bad_input, deltas_[l.delta].file(l.part),
           fmt::format("tensor {} {}", in_quotes(live_.shape()[tensor].name), what));
  }

  std::vector<stage_of_part> open(std::size_t tensor) const {
    std::vector<stage_of_part> out;
    for (const auto& l : levels_[tensor]) {
      const auto& d = deltas_[l.delta];
      const bool other = want_states_ && d.checksum() != published_checksum::xxh3_128;
      out.push_back(
          {l,
           part_stream(d.encoding(), d.compressed(l.part), live_.shape().bytes(tensor),
                       unit_bytes(live_.shape()[tensor].type),
                       deltas_.size() == 1 ? window_log_max : window_log_max_each),
           published_hasher(d.checksum()),
           other ? std::optional<published_hasher>(published_checksum::xxh3_128) : std::nullopt});
    }
    return out;
  }

  // Takes one tensor through all its versions, a window at a time.
  void read(std::size_t tensor) {
    const auto size = live_.shape().bytes(tensor);
    const auto place = live_.place_of(tensor);
    auto parts = open(tensor);
    published_hasher before(published_checksum::xxh3_128);
    std::vector<std::byte> memory(
        2 * static_cast<std::size_t>(std::min<std::uint64_t>(size, part_stream::window_bytes)));
    const auto old = std::span(memory).first(memory.size() / 2);
    const auto fresh = std::span(memory).last(memory.size() / 2);
    std::uint64_t differ = 0;
    for (std::uint64_t at = 0; at < size; at += old.size()) {
      const auto length = std::min<std::uint64_t>(old.size(), size - at);
      const auto from = old.first(length);
      const auto to = fresh.first(length);
      if (!to_.base || !to_.base->read(tensor, at, from))
        files_[place.file].read(place.offset + at, from);
      if (want_states_) before.update(from);
      std::span<const std::byte> last = from;
      for (auto& p : parts) {
        if (auto problem = p.stream.next(last, to); !problem.empty())
          refuse_part(p.of, tensor, problem);
        p.checksum.update(to);
        if (p.xxh3) p.xxh3->update(to);
        last = to;
      }
      if (!parts.empty()) differ += keep(tensor, at, from, to);
      report(length);
    }
    for (auto& p : parts) prove(p, tensor);
    if (want_states_) digests_[tensor].insert(digests_[tensor].begin(), before.digest());
    changed_bytes_ += differ;
  }

  // Returns how many bytes of a window differ.
  std::size_t keep(std::size_t tensor, std::uint64_t at, std::span<const std::byte> from,
                   std::span<const std::byte> to) {
    const auto place = live_.place_of(tensor);
    std::size_t differ = 0;
    if (to_.log)
      differ = to_.log->add(static_cast<std::uint32_t>(place.file), place.offset + at, from, to);
    else
      for_each_difference(from, to, [&](std::size_t) { ++differ; });
    if (to_.target && differ > 0) to_.target->write(tensor, at, to);
    return differ;
  }

  void prove(stage_of_part& p, std::size_t tensor) {
    if (auto problem = p.stream.finish(); !problem.empty()) refuse_part(p.of, tensor, problem);
    const auto digest = p.checksum.digest();
    if (digest != deltas_[p.of.delta].digest(p.of.part))
      refuse_part(p.of, tensor,
                  "does not match its checksum: the file is damaged, or made for another base");
    if (want_states_) digests_[tensor].push_back(p.xxh3 ? p.xxh3->digest() : digest);
  }

  std::string compare_states() const {
    std::vector<std::string> state(levels_.size());
    std::vector<std::size_t> next(levels_.size(), 1);
    for (std::size_t i = 0; i < state.size(); ++i) state[i] = digests_[i].front();
    auto held = state_digest(live_.shape(), state);
    for (std::size_t d = 0; d < deltas_.size(); ++d) {
      const auto dir = published_dir("", deltas_[d].version()).string();
      if (const auto& base = metadata_of(deltas_[d], own_key::base); !base.empty() && base != held)
        refuse(errc::wrong_base, live_.path(),
               fmt::format("is not the base of {}: its digest is {}, not {}; a tensor was changed "
                           "or damaged here, or the stream is of another model",
                           dir, held, printable(base)));
      for (std::size_t p = 0; p < deltas_[d].count(); ++p) {
        const auto tensor = deltas_[d].tensor(p);
        state[tensor] = digests_[tensor][next[tensor]++];
      }
      held = state_digest(live_.shape(), state);
      if (const auto& target = metadata_of(deltas_[d], own_key::target);
          !target.empty() && target != held)
        refuse(errc::bad_input, live_.path(),
               fmt::format("would not become {}: its digest would be {}, not {}", dir, held,
                           printable(target)));
    }
    return held;
  }

  void report(std::uint64_t bytes) {
    if (!progress_) return;
    const std::lock_guard lock(mutex_);
    done_bytes_ += bytes;
    progress_(done_bytes_, all_bytes_);
  }

  const checkpoint& live_;
  std::span<const published_delta> deltas_;
  const stage_place to_;
  const stage_progress& progress_;
  std::vector<std::vector<level>> levels_;
  std::vector<std::size_t> tensors_;
  std::vector<plain_file> files_;
  std::vector<std::vector<std::string>> digests_;  // of each tensor: before, then after each part
  bool want_states_ = false;
  std::atomic<std::uint64_t> changed_bytes_ = 0;
  std::mutex mutex_;
  std::uint64_t done_bytes_ = 0;
  std::uint64_t all_bytes_ = 0;
};

}  // namespace

staged_deltas stage(const checkpoint& live, std::span<const published_delta> deltas,
                    const stage_place& to, const stage_progress& progress) {
  return staging(live, deltas, to, progress).run();
}

}  // namespace lockstep
