#include "weights/pull.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "messages/one_line.hpp"
#include "messages/transient.hpp"
#include "weights/acknowledgement.hpp"
#include "weights/checkpoint.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/host_checkpoint.hpp"
#include "weights/plain_file.hpp"
#include "weights/published.hpp"
#include "weights/pull_plan.hpp"
#include "weights/pull_stage.hpp"
#include "weights/pull_start.hpp"
#include "weights/state_digest.hpp"
#include "weights/unwritable.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

// An index stays as it is while deltas change the tensors, so it must not say of which version they
// are.
void drop_version_keys(const fs::path& dir) {
  if (!has_index(dir)) return;
  const auto metadata = read_index(dir).metadata;
  if (!metadata.contains(std::string(own_key::run)) &&
      !metadata.contains(std::string(own_key::target)))
    return;
  auto index = read_object(dir / index_name, file_limits().index_bytes_max);
  for (const auto key : {own_key::run, own_key::base, own_key::target, std::string_view("version")})
    index["metadata"].erase(std::string(key));
  write_object(dir / index_name, index);
}

// Made the base of itself it would be called version 0, whatever it is.
void require_other_base(const pull_options& options) {
  std::error_code missing;
  if (options.base && fs::equivalent(*options.base, options.checkpoint, missing))
    refuse(errc::bad_input, *options.base, "is the checkpoint itself: give another base");
}

class pulling {
 public:
  explicit pulling(const pull_options& options)
      : options_(options), host_(options.checkpoint, options.lock_patience, options.stopping) {}

  pull_report run() {
    if (options_.name.empty()) return reach();
    try {
      reach();
    } catch (const error& e) {
      refuse_aloud(e);
      throw;
    }
    try {
      say(report_.version, errc::none, {});
    } catch (const error& e) {
      throw_unsaid(host_.dir(), report_.version, e);
    }
    return report_;
  }

 private:
  pull_report reach() {
    report_.recovered = host_.recovered();
    report_.from = report_.version = host_.version().value_or(0);
    const auto target = options_.target ? options_.target : newest_published(options_.source);
    if (!target) refuse(errc::bad_input, options_.source, "holds no published version");
    target_ = *target;
    auto from = start(*target);
    try {
      if (from.version && is_there(*target, from)) return report_;
      step_over_others(*target, from);
      if (from.version == target) return report_;
      go(*target, from);
    } catch (const error&) {
      // Proven not to be the base, so nothing is lost with it, if there is a whole one to take.
      from = from_nothing();
      if (!not_the_base_ || !can_rebuild(*target, from)) throw;
      not_the_base_ = false;
      go(*target, from);
    }
    return report_;
  }

  void say(std::uint64_t version, errc reason, const std::string& detail) const {
    const auto dir = published_dir(options_.source, version);
    if (options_.tell) {
      if (const auto what =
              acknowledgement_of(dir, version, host_.dir(), reason, detail, options_.stopping))
        options_.tell(*what);
      return;
    }
    const auto acks = options_.acks.empty() ? acknowledgements_of(options_.source) : options_.acks;
    acknowledge(dir, version, host_.dir(), acks, options_.name, reason, detail, options_.stopping);
  }

  void refuse_aloud(const error& why) const {
    if (target_ == 0) return;
    try {
      say(target_, why.code(), why.what());
    } catch (const error& e) {
      const auto text = std::string(why.what()) + "; nor could that be said: " + e.what();
      if (is_transient(why)) throw try_again_error(why.code(), text);
      throw error(why.code(), text);
    }
  }

  /// Versions that change no weights, for hosts of which this is none, move the marker alone.
  void step_over_others(std::uint64_t target, pull_start& from) {
    while (
        from.version && *from.version < target && host_.record() &&
        is_for_others(options_.source, *from.version + 1, target, *host_.record(), options_.name)) {
      redo_log nothing(host_.log_file());
      const auto seal = nothing.seal();
      auto record = record_of(options_.source, ++*from.version);
      record.state = host_.record()->state;
      host_.change_to(record, seal, {});
      report_.version = *from.version;
    }
  }

  void go(std::uint64_t target, const pull_start& from) {
    const auto plan = plan_here(target, from);
    try {
      if (!from.version && !plan.whole)
        copy(*options_.base, {}, plan.deltas.empty() ? nullptr : &plan.deltas.front());
      if (plan.whole) copy(plan.whole->dir, plan.whole->record, nullptr);
      const std::span steps(plan.deltas);
      for (std::size_t at = 0; at < steps.size();) at += apply(steps.subspan(at));
    } catch (const error& e) {
      if (e.code() != errc::bad_input || is_transient(e) || still_there(plan)) throw;
      throw try_again_error(e.code(), std::string(e.what()) + "; versions were removed meanwhile");
    }
  }

  pull_plan plan_here(std::uint64_t target, const pull_start& from) const {
    const auto shape = layout_here();
    return plan_pull(options_.source, target, from, options_.base.has_value(),
                     shape ? &*shape : nullptr);
  }

  bool can_rebuild(std::uint64_t target, const pull_start& from) const {
    try {
      (void)plan_here(target, from);
      return true;
    } catch (const error&) {
      return false;
    }
  }

  /// What a whole checkpoint that comes must be like; nothing where it may be like anything.
  std::optional<layout> layout_here() const {
    if (options_.rebuild || !host_.torn().empty()) return std::nullopt;
    const auto live = open_held(host_.dir());
    return live ? std::optional(live->shape()) : std::nullopt;
  }

  pull_start start(std::uint64_t target) const {
    if (options_.rebuild) return nothing_held("is to be rebuilt");
    if (!host_.torn().empty()) return nothing_held(host_.torn(), errc::torn);
    if (!host_.unreadable().empty())
      throw error(errc::bad_input, host_.unreadable() + "; --rebuild takes a whole checkpoint");
    return find_start(options_.source, host_.dir(), host_.version(), host_.record(), target,
                      options_.stopping);
  }

  bool is_there(std::uint64_t target, const pull_start& from) {
    require_not_later(host_.dir(), *from.version, target);
    if (*from.version < target || target == 0) return *from.version == target;
    // Who wrote the marker may have meant another stream.
    const auto& noted = host_.record();
    const bool known = noted && !noted->index.empty();
    if (options_.verify || (!known && !from.by_digest)) {
      tell("comparing", 0, 1);
      try {
        report_.compared_bytes =
            prove_version(options_.source, checkpoint::open(host_.dir()), target,
                          noted ? noted->state : std::string(),
                          options_.verify ? proof::all : proof::own, options_.stopping);
      } catch (const error& e) {
        not_the_base_ = e.code() == errc::wrong_base;
        throw;
      }
    }
    report_.version = target;
    if (!known || from.by_digest || host_.version() != target) note(target, from);
    return true;
  }

  /// What is there is that version, so that the next pull need not find out again.
  void note(std::uint64_t version, const pull_start& from) {
    version_record what;
    what.version = version;
    if (has_index(published_dir(options_.source, version)))
      what = record_of(options_.source, version);
    // What was noted of other files says nothing of these.
    if (from.by_digest)
      what.state = from.state;
    else if (host_.record())
      what.state = host_.record()->state;
    host_.note(what);
  }

  /// Takes all of `from`: staged, checked, then moved in. `next`: the delta on top of a base, if
  /// there is one.
  void copy(const fs::path& from, const version_record& what, const plan_step* next) {
    const bool published = what.version > 0;
    if (published) require_inside(options_.source, from);
    host_.clear_incoming();
    const auto names = names_to_copy(from);
    require_room_for(host_.dir(), names);  // or all would be copied for nothing
    std::uint64_t all = 0;
    for (const auto& name : names) {
      if (published) require_inside(options_.source, from / name);
      all += plain_file(from / name, plain_file::access::read).size();
    }
    std::uint64_t done = 0;
    for (const auto& name : names) {
      const auto doing = "copying " + printable(name);
      tell(doing, done, all);
      copy_whole(from / name, host_.incoming() / name,
                 [&](std::uint64_t bytes) { tell(doing, done += bytes, all); });
    }
    report_.read_bytes += done;
    auto record = what;
    record.state = published ? check_version(from) : check_base(from, next);
    drop_version_keys(host_.incoming());
    host_.replace_by(record, names);
    report_.whole = true;
    report_.version = what.version;
  }

  checkpoint open_copy() const {
    auto fresh = checkpoint::open(host_.incoming());
    if (const auto shape = layout_here()) fresh.require(*shape);
    return fresh;
  }

  /// Both return the digest of the state that was copied; empty if nothing says what it should be.
  std::string check_version(const fs::path& from) const {
    const auto fresh = open_copy();
    if (!has_index(host_.incoming())) return {};
    const auto said = metadata_in(host_.incoming(), own_key::target);
    if (said.empty()) return {};
    auto held = state_digest(fresh, options_.stopping);
    if (held != said)
      refuse(errc::bad_input, from,
             fmt::format("has the digest {}, not {}", held, printable(said)));
    return held;
  }

  /// What a base's own index says of it counts for nothing: it may have been a host's, and deltas
  /// changed its tensors. What the stream says of it does, before anything live goes for it.
  std::string check_base(const fs::path& from, const plan_step* next) const {
    const auto fresh = open_copy();
    if (next == nullptr) return {};
    if (const auto said = metadata_in(next->dir, own_key::base); !said.empty()) {
      auto held = state_digest(fresh, options_.stopping);
      if (held == said) return held;
      refuse(errc::wrong_base, from,
             fmt::format("is not the base of {}: its digest is {}, not {}",
                         next->dir.filename().string(), held, printable(said)));
    }
    const std::vector first{published_delta::open(next->dir, fresh.shape())};
    try {
      stage(fresh, first, {}, [&](auto done, auto all) { tell("proving the base", done, all); });
    } catch (const error& e) {
      if (e.code() != errc::bad_input || is_transient(e)) throw;
      throw error(e.code(), fmt::format("{}; {} is not taken for its base", e.what(),
                                        one_line(from.native())));
    }
    return {};
  }

  /// Applies some of `steps` from the front on. Returns how many.
  std::size_t apply(std::span<const plan_step> steps) {
    const auto most = steps.first(std::min(steps.size(), staged_deltas_max));
    if (most.size() > 1) {
      try {
        apply_all(most);
        return most.size();
      } catch (const error& e) {
        // If nothing was written: one by one, so as to come as far as there is a way. Else the
        // checkpoint is between two versions, and there is one way, which the next pull goes.
        if (writes_ || e.code() == errc::unwritable || e.code() == errc::no_memory ||
            e.code() == errc::shut_down)
          throw;
      }
    }
    try {
      apply_all(steps.first(1));
    } catch (const error& e) {
      not_the_base_ = e.code() == errc::wrong_base ||
                      is_by_base(steps.front().dir, host_.dir(), e, options_.stopping);
      if (!not_the_base_ || e.code() == errc::wrong_base) throw;
      throw error(errc::wrong_base, fmt::format("{}; {} is not its base: a tensor was changed or "
                                                "damaged here, or the stream is of another model",
                                                e.what(), host_.dir().string()));
    }
    return 1;
  }

  void apply_all(std::span<const plan_step> steps) {
    for (const auto& name : shard_names()) host_.make_private(name);
    const auto live = checkpoint::open(host_.dir());
    std::vector<published_delta> deltas;
    for (const auto& s : steps) {
      deltas.push_back(published_delta::open(s.dir, live.shape()));
    }
    const auto what = steps.size() == 1
                          ? fmt::format("version {}", steps[0].record.version)
                          : fmt::format("versions {} to {}", steps.front().record.version,
                                        steps.back().record.version);
    redo_log log(host_.log_file());
    const auto found =
        stage(live, deltas, {&log}, [&](auto done, auto all) { tell(what, done, all); });
    host_.require_alone();
    const auto seal = log.seal();
    std::vector<std::string> files;
    for (std::size_t f = 0; f < live.file_count(); ++f)
      files.push_back(live.file(f).filename().string());
    tell("writing " + what, 1, 1);
    auto record = steps.back().record;
    record.state = found.state;
    writes_ = true;
    host_.change_to(record, seal, files);
    writes_ = false;
    for (const auto& d : deltas) report_.read_bytes += d.compressed_bytes();
    report_.changed_bytes += found.changed_bytes;
    report_.deltas += steps.size();
    report_.version = steps.back().record.version;
  }

  std::vector<std::string> shard_names() const {
    const auto live = checkpoint::open(host_.dir());
    std::vector<std::string> out;
    for (std::size_t f = 0; f < live.file_count(); ++f)
      out.push_back(live.file(f).filename().string());
    return out;
  }

  void tell(std::string_view what, std::uint64_t done, std::uint64_t all) const {
    if (options_.stopping && options_.stopping())
      refuse(errc::shut_down, host_.dir(), "is left as it is: told to stop");
    if (options_.progress) options_.progress(what, done, all);
  }

  const pull_options& options_;
  host_checkpoint host_;
  pull_report report_;
  std::uint64_t target_ = 0;
  bool not_the_base_ = false;
  bool writes_ = false;  ///< a change is declared and not ended
};

}  // namespace

pull_report pull(const pull_options& options) {
  require_other_base(options);
  return pulling(options).run();
}

}  // namespace lockstep
