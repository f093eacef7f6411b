#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "apps/acknowledger.hpp"
#include "apps/commands.hpp"
#include "apps/exit_codes.hpp"
#include "apps/new_host.hpp"
#include "apps/plain_number.hpp"
#include "apps/progress_bar.hpp"
#include "apps/replay_output.hpp"
#include "apps/standard_output.hpp"
#include "apps/stop_signal.hpp"
#include "messages/transient.hpp"
#include "weights/acknowledgement.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/host_record.hpp"
#include "weights/published.hpp"
#include "weights/pull.hpp"

namespace lockstep {

namespace {

struct pull_arguments {
  pull_options pull;
  std::string source;
  std::string checkpoint;
  std::string scratch;
  std::optional<std::string> base;
  std::optional<std::uint64_t> to;
  std::uint64_t lock_ms = 600'000;
  std::uint64_t poll_ms = 500;
  acknowledger_options say;
  bool watch = false;
  bool json = false;
};

std::string line_of(const pull_report& r, double seconds, bool json) {
  if (json) {
    const nlohmann::ordered_json line{{"kind", "pull"},
                                      {"from", r.from},
                                      {"version", r.version},
                                      {"recovered", r.recovered},
                                      {"whole", r.whole},
                                      {"deltas", r.deltas},
                                      {"read_bytes", r.read_bytes},
                                      {"changed_bytes", r.changed_bytes},
                                      {"compared_bytes", r.compared_bytes},
                                      {"seconds", seconds}};
    return line.dump() + '\n';
  }
  std::string line = r.recovered ? "ended what was interrupted; " : "";
  if (!r.whole && r.deltas == 0)
    line += fmt::format(
        "already at version {}{}", r.version,
        r.compared_bytes > 0 ? fmt::format(", {} compared", human_bytes(r.compared_bytes)) : "");
  else
    line +=
        fmt::format("version {} from {}: {}{} deltas, {} read, {} changed, {}", r.version, r.from,
                    r.whole ? "a whole checkpoint, " : "", r.deltas, human_bytes(r.read_bytes),
                    human_bytes(r.changed_bytes), human_seconds(seconds));
  return line + '\n';
}

class puller {
 public:
  explicit puller(const pull_arguments& a) : arguments_(a), options_(a.pull) {
    options_.source = a.source;
    options_.checkpoint = a.checkpoint;
    if (a.base) options_.base = *a.base;
    options_.name = a.say.name;
    options_.acks = a.say.acks;
    options_.target = a.to;
    options_.lock_patience = std::chrono::milliseconds(a.lock_ms);
    options_.stopping = [this] { return stop_.wait_for(std::chrono::milliseconds(0)); };
    if (a.say.connect.empty()) return;
    to_.emplace(a.say);
    options_.tell = [this](const acknowledgement& what) { to_->owe(what, options_.source); };
  }

  /// Says what became of it as well, or throws: `error{shut_down}` where it was told to stop.
  void once() {
    try {
      bring();
    } catch (const error& e) {
      if (e.code() == errc::shut_down) throw;
      try {
        insist();
      } catch (const error& unheard) {
        throw error(e.code(),
                    std::string(e.what()) + "; nor could that be said: " + unheard.what());
      }
      throw;
    }
    try {
      insist();
    } catch (const error& unheard) {
      throw_unsaid(options_.checkpoint, *reached_, unheard);
    }
  }

  /// Until it is told to stop, or is at the version that was asked for and has said so. What cannot
  /// be read yet may be there at the next look: a mount shows files in any order. Throws
  /// `error{shut_down}` where it was told to stop before that version.
  void watch() {
    outlive_readers();
    std::string unreached, unsaid;
    do {
      // Why a version was not reached is said as well.
      if (!attempt(unreached, [this] { look(); }) || !attempt(unsaid, [this] { deliver(); })) break;
      if (arguments_.to && reached_ && *reached_ >= *arguments_.to && unsaid.empty()) return;
    } while (!stop_.wait_for(std::chrono::milliseconds(arguments_.poll_ms)));
    if (arguments_.to)
      refuse(errc::shut_down, options_.checkpoint,
             fmt::format("was not followed to version {}: told to stop", *arguments_.to));
  }

 private:
  static constexpr std::size_t bar_steps = 100;
  // What was refused for the host's sake, or for a checksum, was read whole for it.
  static constexpr std::chrono::seconds refusal_holds{60};

  /// False if it was told to stop. What fails is printed unless it is what failed before, which
  /// `failed` keeps.
  template <class Try>
  bool attempt(std::string& failed, Try once) {
    try {
      once();
      failed.clear();
    } catch (const error& e) {
      if (e.code() == errc::shut_down) return false;
      say(failed, e.what());
    } catch (const std::bad_alloc&) {
      say(failed, "out of memory");
    } catch (const std::exception& e) {  // a file that goes while it is looked at
      say(failed, e.what());
    }
    return true;
  }

  static void say(std::string& failed, const std::string& why) {
    if (failed != why) print_error(why);
    failed = why;
  }

  void bring() {
    require_way_to_new_host(options_);
    const auto started = std::chrono::steady_clock::now();
    progress_bar bar(bar_steps);
    options_.progress = [&](std::string_view what, std::uint64_t done, std::uint64_t all) {
      const auto step =
          all == 0 ? 0
                   : static_cast<std::size_t>(static_cast<double>(done) / static_cast<double>(all) *
                                              static_cast<double>(bar_steps));
      if (std::pair(std::string(what), step) == shown_) return;
      shown_ = {std::string(what), step};
      bar.show(step, what);
    };
    const auto report = pull_or_throw();
    bar.clear();
    options_.rebuild = false;
    reached_ = report.version;
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
    const auto line = line_of(report, took.count(), arguments_.json);
    if (!arguments_.watch)
      print_out(line);
    else if (report.whole || report.deltas > 0 || report.recovered)
      log_out(line);
  }

  /// What was rebuilt need not be again, even where the way from there on is blocked.
  pull_report pull_or_throw() {
    if (!options_.rebuild) return pull(options_);
    const auto before = files_noted();
    try {
      return pull(options_);
    } catch (...) {
      const auto after = files_noted();
      if (!after.empty() && after != before) options_.rebuild = false;
      throw;
    }
  }
  /// The files of the version that the host is known to be at; none where that is not known.
  std::vector<file_stamp> files_noted() const {
    try {
      const auto notes = notes_of(options_.checkpoint);
      if (notes.marker && notes.record) return notes.record->files;
    } catch (const error&) {  // whatever is there is to be replaced
    }
    return {};
  }

  /// One try at what is to be said; trying again is the caller's.
  void deliver() {
    if (to_) to_->deliver(options_.stopping);
  }
  /// Tries until `--connect-ms` are over.
  void insist() {
    const auto until =
        std::chrono::steady_clock::now() + std::chrono::milliseconds(arguments_.say.connect_ms);
    for (;;) {
      try {
        return deliver();
      } catch (const error& e) {
        if (e.code() != errc::unreachable || std::chrono::steady_clock::now() >= until) throw;
        if (stop_.wait_for(std::chrono::milliseconds(200))) throw;
      }
    }
  }

  void look() {
    const auto newest = newest_published(options_.source);
    const auto to = arguments_.to ? std::min(*arguments_.to, newest.value_or(0)) : newest;
    if (!newest) return;
    // The trainer may have begun anew, with fewer versions or as many, and a pull can tell.
    const auto dir = published_dir(options_.source, *to);
    auto seen = stamps_of(dir, {std::string(index_name), std::string(single_file_name)});
    const bool same = seen == seen_;
    if (same && reached_ == to) return;
    // What leads there is looked at before a try, or what changes under it would not be seen, but
    // only once a try was refused: over a mount with thousands of versions it takes long.
    std::optional<std::vector<file_stamp>> way;
    if (same && refused_) {
      way = way_to(*to);
      if (std::chrono::steady_clock::now() - *refused_ < refusal_holds && way == refused_way_)
        return;
    }
    seen_ = std::move(seen);
    reached_.reset();
    refused_.reset();
    options_.target = to;
    try {
      bring();
    } catch (const error& e) {
      const bool damaged = e.code() == errc::bad_input && !is_transient(e);
      if (damaged || e.code() == errc::wrong_base || e.code() == errc::torn) {
        refused_ = std::chrono::steady_clock::now();
        refused_way_ = std::move(way);
      }
      throw;
    }
  }

  /// What tells whether another try can find anything new: all files that may lead there, and the
  /// host's own.
  std::vector<file_stamp> way_to(std::uint64_t target) const {
    std::vector<file_stamp> out;
    const auto add = [&](const std::filesystem::path& dir) {
      if (!leads_to_directory(dir)) return;
      std::vector<std::string> names;
      for (const auto& file : files_in(dir))
        if (!leads_to_directory(file)) names.push_back(file.filename().string());
      for (auto& stamp : stamps_of(dir, names)) out.push_back(std::move(stamp));
    };
    for (const auto version : published_versions(options_.source))
      if (version <= target) add(published_dir(options_.source, version));
    if (options_.base) add(*options_.base);
    add(options_.checkpoint);
    return out;
  }

  stop_signal stop_;  // before anything that has threads
  const pull_arguments& arguments_;
  pull_options options_;
  std::optional<std::uint64_t> reached_;
  std::vector<file_stamp> seen_;  // of the version that was pulled last, or tried
  std::optional<std::chrono::steady_clock::time_point> refused_;
  std::optional<std::vector<file_stamp>> refused_way_;  // nothing: it was not looked at
  std::pair<std::string, std::size_t> shown_;
  std::optional<acknowledger> to_;
};

int run_verify(const pull_arguments& a) {
  const auto started = std::chrono::steady_clock::now();
  progress_bar bar(100);
  auto options = a.pull;
  options.source = a.source;
  options.checkpoint = a.checkpoint;
  options.scratch = a.scratch;
  if (a.base) options.base = *a.base;
  options.target = a.to;
  std::size_t shown = 101;
  options.progress = [&](std::string_view what, std::uint64_t done, std::uint64_t all) {
    const auto step = static_cast<std::size_t>(
        100 * static_cast<double>(done) / static_cast<double>(std::max<std::uint64_t>(all, 1)));
    if (step != shown) bar.show(shown = step, what);
  };
  const auto r = verify(options);
  bar.clear();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
  if (a.json) {
    const nlohmann::ordered_json line{{"kind", "verified"},
                                      {"from", r.from},
                                      {"version", r.version},
                                      {"whole", r.whole},
                                      {"deltas", r.deltas},
                                      {"read_bytes", r.read_bytes},
                                      {"changed_bytes", r.changed_bytes},
                                      {"compared_bytes", r.compared_bytes},
                                      {"seconds", took.count()}};
    print_out(line.dump() + '\n');
  } else if (!r.whole && r.deltas == 0) {
    print_out(fmt::format("is at version {}: {} compared with what the stream says of it\n",
                          r.version, human_bytes(r.compared_bytes)));
  } else {
    print_out(fmt::format("version {} can be reached from {}: {}{} deltas, {}, {} would change\n",
                          r.version, r.from, r.whole ? "a full version, " : "", r.deltas,
                          human_bytes(r.read_bytes), human_bytes(r.changed_bytes)));
  }
  return exit_ok;
}

int run_pull(const pull_arguments& a) {
  puller work(a);
  try {
    if (a.watch)
      work.watch();
    else
      work.once();
  } catch (const error& e) {
    // A host's own files are input here, not what a receiver of ours failed to keep.
    if (e.code() != errc::shut_down && e.code() != errc::torn) throw;
    print_error(e.what());
    return e.code() == errc::torn ? exit_bad_input : exit_unreachable;
  }
  return exit_ok;
}

void add_way_options(CLI::App& command, pull_arguments& a) {
  command.add_option("--source", a.source, "Directory that holds weight_v000001, …")
      ->type_name("DIR")
      ->required();
  command.add_option("--checkpoint", a.checkpoint, "The checkpoint of this host")
      ->type_name("DIR")
      ->required();
  command.add_option("--to", a.to, "Version to reach; the newest one if not given")
      ->check(plain_number(1, UINT64_MAX))
      ->type_name("N");
  command.add_option("--base", a.base, "Checkpoint that a host without one starts from")
      ->type_name("DIR");
  command.add_flag("--json", a.json, "One JSON object a line");
}

}  // namespace

void add_verify_command(CLI::App& program, std::function<int()>& run) {
  auto* command = program.add_subcommand(
      "verify", "Whether a pull would succeed: decodes and compares everything, writes nothing");
  const auto a = std::make_shared<pull_arguments>();
  add_way_options(*command, *a);
  command
      ->add_option(
          "--scratch", a->scratch,
          "Where to keep, for a way of many deltas, what some of them make of the checkpoint "
          "before the next are decoded; the system's directory for temporary files if not "
          "given")
      ->check(CLI::ExistingDirectory)
      ->type_name("DIR");
  command->callback([a, &run] { run = [a] { return run_verify(*a); }; });
}

void add_pull_command(CLI::App& program, std::function<int()>& run) {
  auto* command = program.add_subcommand(
      "pull", "Bring a checkpoint directory up to a version that a stream publishes");
  const auto a = std::make_shared<pull_arguments>();
  add_way_options(*command, *a);
  command->add_flag("--rebuild", a->pull.rebuild,
                    "Take a whole checkpoint, a full version or the base, whatever is there");
  a->say.add_to(*command);
  command->add_flag("--verify", a->pull.verify,
                    "Compare all that is there with what the stream says, where nothing is to do");
  command->add_flag("--watch", a->watch, "Go on with every version that appears");
  command->add_option("--poll-ms", a->poll_ms, "How long to wait between two looks")
      ->check(plain_number(1, 3'600'000))
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--lock-ms", a->lock_ms, "How long to wait for others on this host")
      ->check(plain_number(0, 86'400'000))
      ->type_name("N")
      ->capture_default_str();
  command->callback([a, &run] { run = [a] { return run_pull(*a); }; });
}

}  // namespace lockstep
