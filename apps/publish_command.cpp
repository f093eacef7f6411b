#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "actors/published_fleet.hpp"
#include "apps/commands.hpp"
#include "apps/exit_codes.hpp"
#include "apps/plain_number.hpp"
#include "apps/progress_bar.hpp"
#include "apps/published_output.hpp"
#include "apps/replay_output.hpp"
#include "apps/scheme_option.hpp"
#include "apps/standard_output.hpp"
#include "apps/stop_signal.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/host_record.hpp"
#include "weights/plain_file.hpp"
#include "weights/publisher.hpp"
#include "weights/pull.hpp"
#include "weights/rank_publisher.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

struct publish_arguments {
  publisher_options to;
  std::string out;
  std::vector<std::string> checkpoints;
  std::string trace;
  std::string base;
  std::string stream;
  std::vector<std::string> readers;
  std::vector<std::string> receivers;
  std::string acks;
  std::string listen;
  settings_options settings;
  bool insecure = false;
  std::uint64_t ack_ms = 60'000;
  std::uint64_t recovery_ms = 60'000;
  bool no_reseed = false;
  std::string digest = "xxh3-128";
  std::uint32_t rank = 0;
  std::uint32_t ranks = 1;
  std::uint64_t rank_ms = 60'000;
  std::uint64_t from_version = 0;
  std::uint64_t to_version = 0;
  bool json = false;
  /// What is there already has to be just what would be published, and not only its weights.
  bool exact = false;

  publisher_options options() const {
    auto out_options = to;
    out_options.out = out;
    for (const auto& reader : readers) {
      // Nobody's marker would bound nothing, or everything.
      if (!leads_to_directory(reader))
        refuse(errc::bad_input, "--reader " + reader, "is no directory");
      out_options.readers.emplace_back(reader);
    }
    if (digest == "blake3")
      throw error(errc::bad_input, "--digest blake3: built without a library that computes it");
    out_options.how.checksum =
        digest == "adler32" ? published_checksum::adler32 : published_checksum::xxh3_128;
    return out_options;
  }
};

/// What is published, which tells a bar how much of it has been read. Must stay where it is.
class watched_source {
 public:
  watched_source(const checkpoint& from, series_bar& bar)
      : from_(source_of(from)), bar_(bar), read_(from.shape().count()) {}
  watched_source(const watched_source&) = delete;
  watched_source& operator=(const watched_source&) = delete;

  published_source get() {
    auto out = from_;
    out.done = [this](std::size_t tensor, std::uint64_t begin, std::uint64_t end) {
      from_.done(tensor, begin, end);
      const std::lock_guard lock(mutex_);
      if (end <= read_[tensor]) return;  // read before, for another purpose
      sum_ += end - std::exchange(read_[tensor], end);
      bar_.show(sum_, from_.shape.total_bytes());
    };
    return out;
  }

 private:
  const published_source from_;
  series_bar& bar_;
  std::mutex mutex_;
  std::vector<std::uint64_t> read_;  // how far, of each tensor
  std::uint64_t sum_ = 0;
};

/// A copy of a checkpoint that is taken through a stream on disk, so that no model is in memory.
class travelling_copy {
 public:
  travelling_copy(fs::path dir, const fs::path& base, fs::path stream)
      : dir_(std::move(dir)), stream_(std::move(stream)) {
    make_directories(dir_);
    if (!fs::is_directory(base)) {
      copy_whole(base, dir_ / "model.safetensors");
      return;
    }
    for (const auto& file : files_in(base))
      if (fs::is_regular_file(file) && !file.filename().string().starts_with('.'))
        copy_whole(file, dir_ / file.filename());
  }

  void go_to(std::uint64_t version, series_bar& bar) {
    if (version == 0) return;
    pull_options how;
    how.source = stream_;
    how.checkpoint = dir_;
    how.target = version;
    how.progress = [&bar](std::string_view, std::uint64_t done, std::uint64_t all) {
      bar.show(done, all);
    };
    pull(how);
  }

  checkpoint open() const { return checkpoint::open(dir_); }

 private:
  fs::path dir_;
  fs::path stream_;
};

class publishing {
 public:
  explicit publishing(const publish_arguments& a) : arguments_(a) {
    if (a.rank >= a.ranks)
      throw error(errc::bad_input,
                  fmt::format("--rank {}: of {} --ranks, counted from 0", a.rank, a.ranks));
    const auto hosts_ms = a.receivers.empty() ? 0 : a.ack_ms + a.recovery_ms;
    if (a.ranks > 1 && (a.rank > 0 || a.receivers.empty())) {
      ranks_.emplace(rank_options{a.options(), a.rank, a.ranks,
                                  std::chrono::milliseconds(a.rank_ms),
                                  std::chrono::milliseconds(hosts_ms)});
      return;
    }
    if (a.receivers.empty()) {
      publisher_.emplace(a.options());
      return;
    }
    stop_.emplace();
    published_fleet_options followed;
    followed.stream = a.options();
    followed.receivers = a.receivers;
    followed.acks = a.acks;
    followed.ack_timeout = std::chrono::milliseconds(a.ack_ms);
    followed.recovery_timeout = std::chrono::milliseconds(a.recovery_ms);
    followed.reseed = !a.no_reseed;
    followed.ranks = a.ranks;
    followed.rank_patience = std::chrono::milliseconds(a.rank_ms);
    followed.stopped = [this] { return stop_->wait_for(std::chrono::milliseconds(0)); };
    if (!a.listen.empty()) {
      followed.listen = a.listen;
      followed.options = a.settings.build(a.insecure);
    }
    fleet_.emplace(std::move(followed));
    if (!a.listen.empty()) print_listening(a.listen, fleet_->port(), a.json);
  }
  publishing(const publishing&) = delete;
  publishing& operator=(const publishing&) = delete;

  int checkpoints() {
    warn_of_retention();
    const auto& all = arguments_.checkpoints;
    if (all.size() < 2)
      throw error(errc::bad_input, "--checkpoints: needs the base and at least one version");
    series_bar bar(all.size() - 1);
    const auto open = arguments_.ranks > 1 ? checkpoint::open_rank : checkpoint::open_ranks;
    auto base = open(all[0]);
    for (std::size_t i = 1; i < all.size(); ++i) {
      auto target = open(all[i]);
      add(i, i - 1, base, target, bar, i - 1);
      base = std::move(target);
      if (stopped_) break;
    }
    return status_;
  }

  /// Every version of a stream anew.
  int trace(const fs::path& base, const fs::path& stream) {
    warn_of_retention();
    const auto versions = published_versions(stream);
    if (versions.empty()) refuse(errc::bad_input, stream, "holds no published version");
    scratch_directory scratch(arguments_.out);
    travelling_copy before(scratch.path() / "a", base, stream);
    travelling_copy after(scratch.path() / "b", base, stream);
    series_bar bar(2 * versions.size());
    std::uint64_t last = 0;
    for (std::size_t i = 0; i < versions.size(); ++i) {
      bar.begin(2 * i, fmt::format("reading version {}", versions[i]));
      after.go_to(versions[i], bar);
      add(versions[i], last, before.open(), after.open(), bar, 2 * i + 1);
      std::swap(before, after);
      last = versions[i];
      if (stopped_) break;
    }
    scratch.remove();
    return status_;
  }

  /// One version that leads from one version of a stream to a later one.
  int fold() {
    const auto from = arguments_.from_version;
    const auto to = arguments_.to_version;
    if (from >= to) throw error(errc::bad_input, "--from must be before --to");
    scratch_directory scratch(arguments_.out);
    travelling_copy before(scratch.path() / "a", arguments_.base, arguments_.stream);
    travelling_copy after(scratch.path() / "b", arguments_.base, arguments_.stream);
    series_bar bar(3);
    bar.begin(0, fmt::format("reading version {}", from));
    before.go_to(from, bar);
    bar.begin(1, fmt::format("reading version {}", to));
    after.go_to(to, bar);
    add(to, from, before.open(), after.open(), bar, 2);
    scratch.remove();
    return status_;
  }

 private:
  void warn_of_retention() const {
    if (arguments_.to.keep == 0 || arguments_.to.full_every != 0 || arguments_.rank != 0) return;
    for (const auto version : published_versions(arguments_.out))
      if (!read_index(published_dir(arguments_.out, version)).is_delta()) return;
    print_error(fmt::format(
        "--keep {} removes nothing until there is a full version, which --full-every publishes",
        arguments_.to.keep));
  }

  void add(std::uint64_t version, std::uint64_t base_version, const checkpoint& base,
           const checkpoint& target, series_bar& bar, std::size_t done) {
    const auto started = std::chrono::steady_clock::now();
    bar.begin(done, fmt::format("publishing version {}", version));
    target.require(base.shape());
    if (fleet_) return add_and_wait(version, base, target, bar);
    watched_source watched(target, bar);
    const auto made = ranks_
                          ? ranks_->add(version, base_version, source_of(base), watched.get())
                          : publisher_->add(version, base_version, source_of(base), watched.get());
    bar.clear();
    if (arguments_.exact && made.there) require_exact(made, base_version);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
    print(made, base_version, target.shape().total_bytes(), took.count());
  }

  /// Whoever asks for a delta from one version must not be told that one from another is it.
  void require_exact(const published_version& made, std::uint64_t base_version) const {
    const auto dir = published_dir(arguments_.out, made.version);
    const auto index = read_index(dir);
    const auto& asked = to_string(arguments_.to.how.encoding);
    const auto said = [&](const char* key) {
      const auto at = index.metadata.find(key);
      return at == index.metadata.end() ? std::string() : at->second;
    };
    const auto from = said("base_version");
    const bool same = made.full
                          ? !index.is_delta()
                          : said("delta_encoding") == asked && parse_version(from) == base_version;
    if (same) return;
    const auto there =
        index.is_delta()
            ? fmt::format("{} from {}", printable(said("delta_encoding")), printable(from))
            : std::string("a full version");
    const auto wanted =
        made.full ? std::string("a full version") : fmt::format("{} from {}", asked, base_version);
    refuse(errc::unwritable, dir,
           fmt::format("is there already as {}, not as {}: give another --out", there, wanted));
  }

  /// The next version of the fleet, whichever number that is: the label stays the series'.
  void add_and_wait(std::uint64_t label, const checkpoint& base, const checkpoint& target,
                    series_bar& bar) {
    watched_source watched(target, bar);
    auto pending = fleet_->publish(source_of(base), watched.get(), label);
    bar.clear();
    print(pending.version, pending.report.base.number, target.shape().total_bytes(),
          pending.report.encode.count());
    const auto report =
        fleet_->conclude(std::move(pending), [&target] { return source_of(target); });
    if (!report.participants.empty() || !report.complete())
      print_followed(report, {"sync", "version", fleet_->held(), fleet_->absent()},
                     arguments_.json);
    if (report.reason == errc::shut_down) {
      stopped_ = true;
      status_ = exit_unreachable;
    } else if (!report.complete()) {
      status_ = exit_check_failed;
    }
  }

  void print(const published_version& v, std::uint64_t base, std::uint64_t model_bytes,
             double seconds) const {
    if (arguments_.json) {
      const nlohmann::ordered_json line{{"kind", "published"},  {"version", v.version},
                                        {"base_version", base}, {"full", v.full},
                                        {"there", v.there},     {"gone", v.gone},
                                        {"bytes", v.bytes},     {"model_bytes", model_bytes},
                                        {"removed", v.removed}, {"seconds", seconds}};
      return print_out(line.dump() + '\n');
    }
    if (v.gone) return print_out(fmt::format("version {} was removed as old\n", v.version));
    if (v.there) return print_out(fmt::format("version {} is there already\n", v.version));
    print_out(fmt::format("version {}{} {}, {:.2f} % of {}, {}{}\n", v.version,
                          v.full ? " full" : "", human_bytes(v.bytes),
                          100.0 * static_cast<double>(v.bytes) /
                              static_cast<double>(std::max<std::uint64_t>(model_bytes, 1)),
                          human_bytes(model_bytes), human_seconds(seconds),
                          v.removed > 0 ? fmt::format(", {} removed", v.removed) : ""));
  }

  const publish_arguments& arguments_;
  std::optional<stop_signal> stop_;
  std::optional<publisher> publisher_;    // nobody is waited for
  std::optional<published_fleet> fleet_;  // or these are
  std::optional<rank_publisher> ranks_;   // or this is one of several that publish together
  int status_ = exit_ok;
  bool stopped_ = false;
};

void add_output_options(CLI::App& command, publish_arguments& a) {
  command.add_option("--out", a.out, "Stream to publish into, made if it is not there")
      ->type_name("DIR")
      ->required();
  add_scheme_option(command, "--scheme", a.to.how.encoding);
  command.add_option("--digest", a.digest, "Checksum of each tensor: xxh3-128, adler32 or blake3")
      ->check(CLI::IsMember({"xxh3-128", "adler32", "blake3"}))
      ->capture_default_str();
  command
      .add_option("--run", a.to.run, "Name of this training, told to readers; drawn if not given")
      ->type_name("TEXT");
  command
      .add_option("--shard-mb", a.to.how.shard_bytes_max, "Close a shard at so many MB of tensors")
      ->check(plain_number(1, 1'000'000))
      ->transform([](const std::string& text) { return text + "000000"; })
      ->type_name("N");
  command.add_flag("--json", a.json, "One JSON object a line");
}

void add_series_options(CLI::App& command, publish_arguments& a) {
  command.add_option("--full-every", a.to.full_every, "Every so many versions a full one")
      ->check(plain_number(1, 1'000'000'000))
      ->type_name("N");
  command
      .add_option("--keep", a.to.keep,
                  "Remove versions before a full one that so many newest do not need")
      ->check(plain_number(1, 1'000'000'000))
      ->type_name("N");
  command
      .add_option("--reader", a.readers,
                  "Checkpoint whose version bounds what is removed. May be repeated")
      ->type_name("DIR")
      ->allow_extra_args(false);
}

void add_receiver_options(CLI::App& command, publish_arguments& a) {
  auto* receivers =
      command
          .add_option("--receiver", a.receivers,
                      "Name of a host that must acknowledge each version before the next is "
                      "published (pull --name). May be repeated")
          ->type_name("NAME")
          ->allow_extra_args(false);
  command.add_option("--acks", a.acks, "Where hosts acknowledge; OUT/acks if not given")
      ->type_name("DIR")
      ->needs(receivers);
  auto* listen = command
                     .add_option("--listen", a.listen,
                                 "Where they may acknowledge over connections too (pull --connect)")
                     ->type_name("HOST:PORT")
                     ->needs(receivers);
  command
      .add_flag("--insecure", a.insecure,
                "Listen off this machine with neither certificates nor a shared key")
      ->needs(listen);
  a.settings.add_to(command);
  for (const char* setting : {"--config", "--set"}) command.get_option(setting)->needs(listen);
  command.add_option("--ack-ms", a.ack_ms, "How long to wait for acknowledgements of a version")
      ->check(plain_number(1, 86'400'000))
      ->type_name("N")
      ->capture_default_str()
      ->needs(receivers);
  command
      .add_option("--recovery-ms", a.recovery_ms,
                  "How long to wait for hosts that failed to hold it after all")
      ->check(plain_number(0, 86'400'000))
      ->type_name("N")
      ->capture_default_str()
      ->needs(receivers);
  command
      .add_flag("--no-reseed", a.no_reseed,
                "Publish no full version for hosts whose bytes are not what the chain needs")
      ->needs(receivers);
}

void add_rank_options(CLI::App& command, publish_arguments& a, CLI::Option* checkpoints) {
  auto* ranks = command
                    .add_option("--ranks", a.ranks,
                                "So many processes publish together, each the tensors that its own "
                                "checkpoints hold")
                    ->check(plain_number(1, ranks_max))
                    ->type_name("N")
                    ->needs(checkpoints);
  command.add_option("--rank", a.rank, "Which of them this is, from 0, which writes the index")
      ->check(plain_number(0, ranks_max - 1))
      ->type_name("R")
      ->needs(ranks);
  command
      .add_option("--rank-ms", a.rank_ms,
                  "How long to wait for the other ranks once this one has done its part")
      ->check(plain_number(1, 86'400'000))
      ->type_name("N")
      ->capture_default_str()
      ->needs(ranks);
}

void add_source_options(CLI::App& command, publish_arguments& a) {
  command.add_option("--base", a.base, "Checkpoint that the stream starts from")
      ->type_name("DIR")
      ->required();
  command.add_option("--stream", a.stream, "Stream to read")->type_name("DIR")->required();
}

}  // namespace

void add_publish_command(CLI::App& program, std::function<int()>& run) {
  auto* command = program.add_subcommand(
      "publish", "Write checkpoints as a stream of versions that hosts pull");
  const auto a = std::make_shared<publish_arguments>();
  auto* source = command->add_option_group("source");
  auto* checkpoints =
      source->add_option("--checkpoints", a->checkpoints, "The base, then version 1, 2, …")
          ->type_name("DIR");
  source->add_option("--trace", a->trace, "Directory with base/ and stream/: each version anew")
      ->type_name("DIR");
  source->require_option(1);
  add_output_options(*command, *a);
  add_series_options(*command, *a);
  add_receiver_options(*command, *a);
  add_rank_options(*command, *a, checkpoints);
  command->callback([a, &run] {
    run = [a] {
      publishing work(*a);
      const fs::path trace = a->trace;
      return trace.empty() ? work.checkpoints() : work.trace(trace / "base", trace / "stream");
    };
  });
}

void add_convert_command(CLI::App& program, std::function<int()>& run) {
  auto* command = program.add_subcommand(
      "convert", "Write a stream anew in another scheme: others' as ours, ours as others'");
  const auto a = std::make_shared<publish_arguments>();
  add_source_options(*command, *a);
  add_output_options(*command, *a);
  add_series_options(*command, *a);
  a->exact = true;
  command->callback([a, &run] { run = [a] { return publishing(*a).trace(a->base, a->stream); }; });
}

void add_fold_command(CLI::App& program, std::function<int()>& run) {
  auto* command =
      program.add_subcommand("fold", "Write many deltas of a stream as one, for who comes late");
  const auto a = std::make_shared<publish_arguments>();
  add_source_options(*command, *a);
  command->add_option("--from", a->from_version, "Version that the delta starts from")
      ->check(plain_number(0, UINT64_MAX))
      ->type_name("A")
      ->required();
  command->add_option("--to", a->to_version, "Version that it leads to")
      ->check(plain_number(1, UINT64_MAX))
      ->type_name("B")
      ->required();
  add_output_options(*command, *a);
  a->exact = true;
  command->callback([a, &run] { run = [a] { return publishing(*a).fold(); }; });
}

}  // namespace lockstep
