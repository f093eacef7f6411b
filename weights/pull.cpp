#include "weights/pull.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "weights/acknowledgement.hpp"
#include "weights/checkpoint.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/host_checkpoint.hpp"
#include "weights/plain_file.hpp"
#include "weights/published.hpp"
#include "weights/pull_plan.hpp"
#include "weights/pull_stage.hpp"
#include "weights/state_digest.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

// Deltas that are taken in one pass over the checkpoint.
constexpr std::size_t deltas_max = 8;

class pulling {
 public:
  explicit pulling(const pull_options& options)
      : options_(options), host_(options.checkpoint, options.lock_patience) {}

  pull_report run() {
    if (options_.name.empty()) return reach();
    try {
      reach();
      acknowledge(report_.version, errc::none, {});
    } catch (const error& e) {
      refuse_aloud(e);
      throw;
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
    auto marker = start(*target);
    if (marker && is_there(*target, *marker)) return report_;
    while (marker && *marker < *target && is_for_others(*marker + 1)) step_over(++*marker);
    if (marker == target) return report_;
    try {
      go(*target, marker);
    } catch (const error&) {
      // Proven not to be the base, so nothing is lost with it, if there is a whole one to take.
      if (!not_the_base_ || !can_rebuild(*target)) throw;
      not_the_base_ = false;
      go(*target, std::nullopt);
    }
    return report_;
  }

  /// Says what became of `version`, where its publisher waits for that.
  void acknowledge(std::uint64_t version, errc reason, const std::string& detail) const {
    const auto challenge = challenge_in(published_dir(options_.source, version));
    if (!challenge) return;
    const auto acks =
        options_.acks.empty() ? acknowledgements_of(options_.source) : options_.acks;
    acknowledgement what{version, *challenge, reason, detail, {}};
    if (reason == errc::none) {
      if (has_said(acks, what)) return;
      what.proof = proof_of(checkpoint::open(host_.dir()), *challenge);
    }
    write_acknowledgement(acks, options_.name, what);
  }

  bool has_said(const fs::path& acks, const acknowledgement& what) const {
    try {
      const auto before = read_acknowledgement(acks, options_.name);
      return before && before->version == what.version && before->challenge == what.challenge &&
             before->reason == errc::none;
    } catch (const error&) {
      return false;  // damaged: said anew
    }
  }

  void refuse_aloud(const error& why) const {
    try {
      if (target_ > 0) acknowledge(target_, why.code(), why.what());
    } catch (const error& e) {
      throw error(why.code(), std::string(why.what()) + "; nor could that be said: " + e.what());
    }
  }

  /// A full version that changes no weights, for hosts of which this is none.
  bool is_for_others(std::uint64_t version) const {
    const auto dir = published_dir(options_.source, version);
    const auto before = published_dir(options_.source, version - 1);
    if (version == 1 || !has_index(dir) || !has_index(before)) return false;
    const auto index = read_index(dir);
    const auto names = index.metadata.find(std::string(own_key::meant_for));
    if (index.is_delta() || names == index.metadata.end() ||
        ("," + names->second + ",").find("," + options_.name + ",") != std::string::npos)
      return false;
    const auto& state = index.metadata.find(std::string(own_key::target));
    const auto earlier = read_index(before).metadata;
    const auto same = earlier.find(std::string(own_key::target));
    const auto& ours = host_.record();
    return state != index.metadata.end() && same != earlier.end() &&
           state->second == same->second && ours && !ours->index.empty() &&
           ours->index == record_of(options_.source, version - 1).index;
  }

  void step_over(std::uint64_t version) {
    redo_log nothing(host_.log_file());
    host_.change_to(record_of(options_.source, version), nothing.seal(), {});
    report_.version = version;
  }

  void go(std::uint64_t target, std::optional<std::uint64_t> marker) {
    const auto shape = layout_here();
    const auto plan = plan_pull(options_.source, target, marker, options_.base.has_value(),
                                shape ? &*shape : nullptr);
    if (!marker && !plan.whole) copy(*options_.base, {0, {}, {}});
    if (plan.whole) copy(plan.whole->dir, plan.whole->record);
    const std::span steps(plan.deltas);
    for (std::size_t at = 0; at < steps.size();) at += apply(steps.subspan(at));
  }

  bool can_rebuild(std::uint64_t target) const {
    try {
      const auto shape = layout_here();
      (void)plan_pull(options_.source, target, std::nullopt, options_.base.has_value(),
                      shape ? &*shape : nullptr);
      return true;
    } catch (const error&) {
      return false;
    }
  }

  /// What a whole checkpoint that comes must be like; nothing where it may be like anything.
  std::optional<layout> layout_here() const {
    if (options_.rebuild || host_.torn() || !holds_checkpoint(host_.dir())) return std::nullopt;
    return checkpoint::open(host_.dir()).shape();
  }

  /// What the checkpoint can be taken for; nothing if a whole one is needed.
  std::optional<std::uint64_t> start(std::uint64_t target) const {
    if (options_.rebuild || host_.torn() || !holds_checkpoint(host_.dir())) return std::nullopt;
    if (!host_.version()) return 0;  // a fresh host
    return is_other_run(target) ? std::nullopt : host_.version();
  }

  /// A stream that was begun anew over a directory that was kept looks the same but for this.
  bool is_other_run(std::uint64_t target) const {
    const auto& ours = host_.record();
    if (!ours) return false;  // the marker is not ours, and says nothing about it
    const auto noted = [&](std::uint64_t version) -> std::optional<version_record> {
      if (!has_index(published_dir(options_.source, version))) return std::nullopt;
      return record_of(options_.source, version);
    };
    if (const auto same = noted(ours->version); same && !ours->index.empty())
      return same->index != ours->index;
    const auto newest = noted(target);
    return newest && !ours->run.empty() && !newest->run.empty() && newest->run != ours->run;
  }

  bool is_there(std::uint64_t target, std::uint64_t marker) {
    if (marker > target)
      refuse(errc::wrong_base, host_.dir(),
             fmt::format("is at version {}, later than {}", marker, target));
    if (marker < target || target == 0) return marker == target;
    // Who wrote the marker may have meant another stream.
    if (!host_.record() || host_.record()->index.empty()) prove_version(target);
    return true;
  }

  /// The marker is somebody else's: does the checkpoint hold what this version says of it?
  void prove_version(std::uint64_t version) const {
    const auto dir = published_dir(options_.source, version);
    require_inside(options_.source, dir);
    const auto live = checkpoint::open(host_.dir());
    if (!has_index(dir) || !read_index(dir).is_delta())
      return require_same(live, checkpoint::open(dir));
    const auto delta = published_delta::open(dir, live.shape());
    for (std::size_t p = 0; p < delta.count(); ++p)
      if (published_digest(delta.checksum(), live.tensor(delta.tensor(p))) != delta.digest(p))
        refuse_marker(version, live.shape()[delta.tensor(p)].name);
  }

  void require_same(const checkpoint& live, const checkpoint& full) const {
    full.require(live.shape());
    for (std::size_t i = 0; i < live.shape().count(); ++i)
      if (live.shape().bytes(i) > 0 &&
          std::memcmp(live.tensor(i).data(), full.tensor(i).data(), live.tensor(i).size()) != 0)
        refuse_marker(*host_.version(), live.shape()[i].name);
  }

  [[noreturn]] void refuse_marker(std::uint64_t version, const std::string& tensor) const {
    refuse(errc::wrong_base, host_.dir(),
           fmt::format("says it is at version {}, but its tensor {} is not that version's; "
                       "--rebuild takes a whole checkpoint",
                       version, in_quotes(tensor)));
  }

  /// Takes all of `from`: staged, checked, then moved in.
  void copy(const fs::path& from, const version_record& what) {
    const bool published = what.version > 0;
    if (published) require_inside(options_.source, from);
    host_.clear_incoming();
    std::vector<std::string> names;
    std::error_code failure;
    for (fs::directory_iterator it(from, failure), end; !failure && it != end;
         it.increment(failure)) {
      const auto name = it->path().filename().string();
      if (name.starts_with('.') || name.ends_with(".tmp") || it->is_directory()) continue;
      if (published) require_inside(options_.source, it->path());
      tell("copying " + printable(name), names.size(), names.size() + 1);
      copy_whole(it->path(), host_.incoming() / name);
      report_.read_bytes += it->file_size();
      names.push_back(name);
    }
    if (failure) refuse(errc::bad_input, from, "cannot be listed: " + failure.message());
    check_copy(from);
    host_.replace_by(what, names);
    report_.whole = true;
    report_.version = what.version;
  }

  void check_copy(const fs::path& from) {
    const auto fresh = checkpoint::open(host_.incoming());
    if (const auto shape = layout_here()) fresh.require(*shape);
    if (!has_index(host_.incoming())) return;
    const auto index = read_index(host_.incoming());
    const auto digest = index.metadata.find(std::string(own_key::target));
    if (digest == index.metadata.end()) return;
    const auto held = state_digest(fresh.shape(), tensor_digests(fresh));
    if (held != digest->second)
      refuse(errc::bad_input, from,
             fmt::format("has the digest {}, not {}", held, printable(digest->second)));
  }

  /// Applies some of `steps` from the front on. Returns how many.
  std::size_t apply(std::span<const plan_step> steps) {
    const auto most = steps.first(std::min(steps.size(), deltas_max));
    if (most.size() > 1) {
      try {
        apply_all(most);
        return most.size();
      } catch (const error& e) {
        // Nothing was written. One by one, so as to come as far as there is a way.
        if (e.code() == errc::unwritable || e.code() == errc::no_memory) throw;
      }
    }
    try {
      apply_all(steps.first(1));
    } catch (const error& e) {
      not_the_base_ = e.code() == errc::wrong_base;
      throw;
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
    const auto changed =
        stage(live, deltas, &log, [&](auto done, auto all) { tell(what, done, all); });
    const auto seal = log.seal();
    std::vector<std::string> files;
    for (std::size_t f = 0; f < live.file_count(); ++f)
      files.push_back(live.file(f).filename().string());
    tell("writing " + what, 1, 1);
    host_.change_to(steps.back().record, seal, files);
    for (const auto& d : deltas) report_.read_bytes += d.compressed_bytes();
    report_.changed_bytes += changed;
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
    if (options_.progress) options_.progress(what, done, all);
  }

  const pull_options& options_;
  host_checkpoint host_;
  pull_report report_;
  std::uint64_t target_ = 0;
  bool not_the_base_ = false;
};

constexpr std::size_t verified_deltas_max = 256;

// What a chain starts from, proven where it can be.
checkpoint open_whole(const fs::path& dir) {
  auto whole = checkpoint::open(dir);
  if (!has_index(dir)) return whole;
  const auto metadata = read_index(dir).metadata;
  const auto digest = metadata.find(std::string(own_key::target));
  if (digest != metadata.end() &&
      state_digest(whole.shape(), tensor_digests(whole)) != digest->second)
    refuse(errc::bad_input, dir, "does not have the digest that its index says");
  return whole;
}

}  // namespace

pull_report verify(const pull_options& options) {
  const auto target = options.target ? options.target : newest_published(options.source);
  if (!target) refuse(errc::bad_input, options.source, "holds no published version");
  std::optional<std::uint64_t> marker;
  std::optional<checkpoint> here;
  if (!options.rebuild && holds_checkpoint(options.checkpoint)) {
    here = checkpoint::open(options.checkpoint);
    marker = marker_of(options.checkpoint).value_or(0);
    if (*marker > *target)
      refuse(errc::wrong_base, options.checkpoint,
             fmt::format("is at version {}, later than {}", *marker, *target));
  }
  const auto plan = plan_pull(options.source, *target, marker, options.base.has_value(),
                              here ? &here->shape() : nullptr);
  const auto start = plan.whole ? open_whole(plan.whole->dir)
                     : marker   ? *here
                                : checkpoint::open(*options.base);
  if (here && plan.whole) start.require(here->shape());
  if (plan.deltas.size() > verified_deltas_max)
    refuse(errc::bad_input, options.source,
           fmt::format("has {} deltas on the way, more than {}: give a nearer version",
                       plan.deltas.size(), verified_deltas_max));
  std::vector<published_delta> deltas;
  for (const auto& s : plan.deltas) deltas.push_back(published_delta::open(s.dir, start.shape()));
  pull_report report;
  report.changed_bytes = stage(start, deltas, nullptr, [&](auto done, auto all) {
    if (options.progress) options.progress("verifying", done, all);
  });
  report.from = marker.value_or(0);
  report.version = *target;
  report.whole = plan.whole.has_value();
  report.deltas = deltas.size();
  for (const auto& d : deltas) report.read_bytes += d.compressed_bytes();
  return report;
}

pull_report pull(const pull_options& options) {
  return pulling(options).run();
}

}  // namespace lockstep
