// Decides whether a pull would succeed, without the lock and without a written byte.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "weights/checkpoint.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/file_lock.hpp"
#include "weights/host_checkpoint.hpp"
#include "weights/host_record.hpp"
#include "weights/published.hpp"
#include "weights/pull.hpp"
#include "weights/pull_plan.hpp"
#include "weights/pull_stage.hpp"
#include "weights/pull_start.hpp"
#include "weights/scratch_weights.hpp"
#include "weights/state_digest.hpp"
#include "weights/stopping.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

// What a chain starts from, proven where it can be.
checkpoint open_whole(const fs::path& dir, const std::function<bool()>& stopping) {
  auto whole = checkpoint::open(dir);
  if (!has_index(dir)) return whole;
  const auto metadata = read_index(dir).metadata;
  const auto digest = metadata.find(std::string(own_key::target));
  if (digest != metadata.end() && state_digest(whole, stopping) != digest->second)
    refuse(errc::bad_input, dir, "does not have the digest that its index says");
  return whole;
}

/// The same way without the lock and without a written byte.
class verifying {
 public:
  explicit verifying(const pull_options& options) : options_(options) {}

  pull_report run() {
    const auto target = options_.target ? options_.target : newest_published(options_.source);
    if (!target) refuse(errc::bad_input, options_.source, "holds no published version");
    report_.version = *target;
    require_workable(options_.checkpoint);
    const auto notes = settled_notes();
    report_.from = notes.marker.value_or(0);
    const auto from = find_start(options_.source, options_.checkpoint, notes.marker, notes.record,
                                 *target, options_.stopping);
    if (from.version) require_not_later(options_.checkpoint, *from.version, *target);
    if (from.version == target && *target != 0) {
      report_.compared_bytes = prove_version(
          options_.source, checkpoint::open(options_.checkpoint), *target,
          notes.record ? notes.record->state : std::string(), proof::all, options_.stopping);
      return report_;
    }
    const auto here = open_held(options_.checkpoint);
    const auto plan = plan_here(*target, from, here);
    try {
      way(plan, from, here);
    } catch (const error&) {
      if (!not_the_base_) throw;
      const auto anew = rebuilding(*target, here);
      if (!anew) throw;
      way(*anew, from_nothing(), here);
    }
    return report_;
  }

 private:
  /// Once nobody is at work there. Throws `error` if what was begun is not ended.
  host_notes settled_notes() const {
    auto notes = notes_of(options_.checkpoint);
    if (!notes.interrupted) return notes;
    if (is_locked(options_.checkpoint / ".weight_sync" / "lock"))
      refuse(
          errc::timeout, options_.checkpoint,
          fmt::format("is being changed to version {} by another process: ask again when it ends",
                      *notes.interrupted));
    notes = notes_of(options_.checkpoint);  // it may have ended before the lock was looked at
    if (notes.interrupted)
      refuse(errc::torn, options_.checkpoint,
             fmt::format("was left by an interrupted change to version {}: the next pull ends it",
                         *notes.interrupted));
    return notes;
  }

  pull_plan plan_here(std::uint64_t target, const pull_start& from,
                      const std::optional<checkpoint>& here) const {
    return plan_pull(options_.source, target, from, options_.base.has_value(),
                     here ? &here->shape() : nullptr);
  }

  /// The way from a whole checkpoint, which a pull goes where the live one is not the base.
  std::optional<pull_plan> rebuilding(std::uint64_t target,
                                      const std::optional<checkpoint>& here) const {
    try {
      return plan_here(target, from_nothing(), here);
    } catch (const error&) {
      return std::nullopt;
    }
  }

  void way(const pull_plan& plan, const pull_start& from, const std::optional<checkpoint>& here) {
    if (plan.whole || !from.version)
      require_room_for(options_.checkpoint,
                       names_to_copy(plan.whole ? plan.whole->dir : *options_.base));
    const auto start = plan.whole     ? open_whole(plan.whole->dir, options_.stopping)
                       : from.version ? *here
                                      : checkpoint::open(*options_.base);
    if (here) start.require(here->shape());
    report_.whole = plan.whole.has_value();
    report_.deltas = 0;
    report_.read_bytes = report_.changed_bytes = 0;
    scratch_weights between(start.shape(), options_.scratch);
    const std::span steps(plan.deltas);
    while (report_.deltas < steps.size()) {
      try {
        some(start, steps.subspan(report_.deltas), between);
      } catch (const error& e) {
        not_the_base_ = e.code() == errc::wrong_base ||
                        (report_.deltas == 0 &&
                         is_by_base(steps.front().dir, start.path(), e, options_.stopping));
        throw;
      }
    }
  }

  /// As many of `steps` from the front on as are decoded at once, onto what those before them have
  /// left in `between`, where what they make goes if others follow.
  void some(const checkpoint& start, std::span<const plan_step> steps, scratch_weights& between) {
    std::vector<published_delta> deltas;
    for (const auto& s : steps.first(std::min(steps.size(), staged_deltas_max))) {
      auto next = published_delta::open(s.dir, start.shape());
      const bool alone = next.look_back_bytes() > staged_window_bytes_max;
      if (alone && !deltas.empty()) break;
      deltas.push_back(std::move(next));
      if (alone) break;
    }
    const auto what = deltas.size() == 1
                          ? fmt::format("verifying version {}", deltas[0].version())
                          : fmt::format("verifying versions {} to {}", deltas.front().version(),
                                        deltas.back().version());
    const auto found =
        stage(start, deltas, {nullptr, &between, deltas.size() < steps.size() ? &between : nullptr},
              [&](auto done, auto all) {
                heed(options_.stopping, options_.checkpoint);
                if (options_.progress) options_.progress(what, done, all);
              });
    report_.changed_bytes += found.changed_bytes;
    report_.deltas += deltas.size();
    for (const auto& d : deltas) report_.read_bytes += d.compressed_bytes();
  }

  const pull_options& options_;
  pull_report report_;
  bool not_the_base_ = false;
};

}  // namespace

pull_report verify(const pull_options& options) {
  return verifying(options).run();
}

}  // namespace lockstep
