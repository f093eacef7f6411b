// `lockstep trainer`: a process that plays a trainer for receivers of other processes.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "actors/repeats.hpp"
#include "actors/trainer.hpp"
#include "apps/commands.hpp"
#include "apps/exit_codes.hpp"
#include "apps/live_publication.hpp"
#include "apps/lost_run.hpp"
#include "apps/plain_number.hpp"
#include "apps/replay_output.hpp"
#include "apps/row_shards_option.hpp"
#include "apps/scheme_option.hpp"
#include "apps/standard_output.hpp"
#include "apps/stop_signal.hpp"
#include "weights/checkpoint.hpp"
#include "weights/row_split.hpp"
#include "weights/weight_stream.hpp"

namespace lockstep {

namespace {

using std::chrono::milliseconds;
using clock = std::chrono::steady_clock;

struct trainer_command_options {
  settings_options settings;
  std::string base;
  std::optional<std::string> stream;
  std::optional<std::string> listen;
  std::uint32_t receivers = 1;
  std::uint32_t rounds = 1;
  std::uint32_t period_ms = 0;
  std::uint32_t patience_ms = 600'000;
  std::uint32_t rank = 0;
  std::uint32_t ranks = 1;
  std::uint32_t row_shards = 1;
  std::optional<std::string> coordinator;
  std::optional<std::string> publish;
  std::vector<std::string> followers;
  std::string follower_listen;
  std::uint32_t follower_ms = 60'000;
  published_encoding scheme = published_encoding::xored;
  bool serve = false;
  bool json = false;
  bool insecure = false;
};

settings settings_of(const trainer_command_options& o) {
  auto s = o.settings.build(o.insecure);
  if (o.listen) s.transport.listen = *o.listen;
  if (s.transport.listen.empty()) s.transport.listen = "127.0.0.1:0";
  s.transport.connect = o.coordinator.value_or("");
  if (o.ranks > 1) s.transport.ranks = o.ranks;
  if (o.rank > 0) s.transport.rank = o.rank;
  if (s.transport.rank > 0 && s.transport.connect.empty())
    throw error(errc::bad_input, "--coordinator HOST:PORT is missing: where is rank 0?");
  // Forgotten, it would lead a trainer of its own and wait for ranks that are another's.
  if (s.transport.rank == 0 && o.coordinator)
    throw error(errc::bad_input,
                "--coordinator is for ranks that do not lead: say which by --rank");
  return s;
}

published_fleet_options publication_of(const trainer_command_options& o, const settings& s) {
  published_fleet_options out;
  out.stream.out = *o.publish;
  out.stream.how.encoding = o.scheme;
  out.receivers = o.followers;
  out.listen = o.follower_listen;
  out.options = s;
  out.ack_timeout = out.recovery_timeout = milliseconds(o.follower_ms);
  return out;
}

/// For the other ranks to hear that the run is over: who does not takes rank 0 for lost.
constexpr milliseconds farewell{500};
/// Between two tries at something that the fleet is not ready for.
constexpr milliseconds pause{100};
/// Before people are told what is waited for, and before they are told again.
constexpr milliseconds wait_before_word{5'000};
constexpr milliseconds wait_between_words{60'000};

class player {
 public:
  explicit player(const trainer_command_options& o)
      : options_(o),
        base_(checkpoint::open(o.base)),
        split_(base_.shape(), o.row_shards),
        output_(o.json) {
    if (o.stream) stream_.emplace(weight_stream::open(*o.stream, base_.shape()));
  }

  int run() {
    const auto settings = settings_of(options_);
    runtime on(settings);
    print_listening(settings.transport.listen, on.port(), options_.json);
    ranks_ = settings.transport.ranks;
    leads_ = settings.transport.rank == 0;
    lease_ = milliseconds(settings.receiver.lease_ms);
    if (options_.publish && ranks_ > 1)
      throw error(errc::bad_input, "--publish: a rank has only a part of the weights");
    weights_ = weight_buffer(base_.shape());
    if (options_.publish)
      publication_.emplace(base_.shape(), publication_of(options_, settings), options_.json);
    if (publication_ && publication_->port() != 0)
      print_listening(options_.follower_listen, publication_->port(), options_.json, true);
    trainer trainer(on, split_.shape(), split_.share(settings.transport.rank, ranks_));
    const stop_watch watch(stop_, [this, &trainer] {
      trainer.stop();
      if (publication_) publication_->stop();
    });
    // Again from the base whenever a rank was lost, as training would from its checkpoint.
    while (!stop_.wait_for(milliseconds(0)) && !play_through(trainer)) {
    }
    if (!seeded_ || (leads_ && !came_)) {
      std::fprintf(stderr, "lockstep: told to end before %s\n",
                   seeded_ ? "the receivers were there" : "all ranks were there");
      return exit_unreachable;
    }
    if (!leads_) return exit_ok;
    if (!concluded_) conclude(trainer);
    if (ranks_ > 1) {
      trainer.stop();
      std::this_thread::sleep_for(farewell);
    }
    const bool published = !publication_ || publication_->complete();
    return summary_.pass() && published ? exit_ok : exit_check_failed;
  }

 private:
  /// Sees to it that a word to stop is obeyed though another rank or a receiver is waited for.
  class stop_watch {
   public:
    stop_watch(stop_signal& stop, std::function<void()> end)
        : thread_([this, &stop, end = std::move(end)] {
            while (!done_ && !stop.wait_for(pause)) {
            }
            const auto until = clock::now() + grace;
            while (!done_ && clock::now() < until) std::this_thread::sleep_for(pause / 4);
            if (!done_) end();
          }) {}
    ~stop_watch() {
      done_ = true;
      thread_.join();
    }
    stop_watch(const stop_watch&) = delete;
    stop_watch& operator=(const stop_watch&) = delete;

   private:
    /// For a sync that is about to end by itself.
    static constexpr milliseconds grace{1'500};
    std::atomic<bool> done_ = false;
    std::thread thread_;
  };

  /// From the base to the end of the stream, and as long as it is served; false if the run was lost
  /// on the way.
  bool play_through(trainer& t) {
    try {
      weights_.copy_from(base_);
      held_ = 0;
      seed(t);
      if (publication_) publication_->seed(weights_, 0);
      if ((!leads_ || wait_for_fleet(t)) && play_all(t) && leads_) require_run(t);
      if (leads_ && came_) conclude(t);
      return stay(t);
    } catch (const run_lost&) {
      if (stop_.wait_for(milliseconds(0))) return true;
      std::fprintf(stderr, "lockstep: a rank was lost; starting again from the base\n");
      return false;
    }
  }

  static constexpr auto no_run = "the trainer's side is down";

  void require_run(const trainer& t) const {
    if (const auto why = t.ended_by(); why != errc::none) lose_run(why, no_run, ranks_);
  }

  /// Stays at the last version: who leads while it is to serve, another rank until the run is over,
  /// for its part is needed until then. False if there is to be another run.
  bool stay(const trainer& t) {
    while ((!leads_ || options_.serve) && !stop_.wait_for(pause)) {
      const auto why = t.ended_by();
      if (why == errc::none) continue;
      // Rank 0 has said that no run follows. Had it gone without a word it would be lost; and where
      // another rank was, all begin again.
      if (!leads_ && why == errc::detached) {
        if (!options_.serve) return true;
        std::fprintf(stderr, "lockstep: rank 0 has ended the run; starting again from the base\n");
        return false;
      }
      lose_run(why, no_run, ranks_);
    }
    return true;
  }

  tensor_reader pieces() const { return split_.reader(reader_of(weights_)); }

  /// Waits for the other ranks.
  void seed(trainer& t) {
    const auto until = clock::now() + milliseconds(options_.patience_ms);
    for (;;) {
      try {
        const auto left = std::chrono::ceil<milliseconds>(until - clock::now());
        t.seed(pieces(), 0, std::max(left, milliseconds(1)));
        seeded_ = true;
        return;
      } catch (const error& e) {
        if (stop_.wait_for(milliseconds(0))) throw run_lost();
        const bool others =
            e.code() == errc::timeout || e.code() == errc::dead || e.code() == errc::shut_down;
        if (ranks_ == 1 || !others || clock::now() >= until) throw;
      }
      if (stop_.wait_for(pause)) throw run_lost();
    }
  }

  /// All of the fleet before the first sync. In a run that follows a lost one, after two leases, in
  /// which all that live have announced themselves, those that are there once nobody is being given
  /// weights: who died meanwhile holds nobody up, but one there must be. False if told to stop
  /// before.
  bool wait_for_fleet(const trainer& t) {
    const auto began = clock::now();
    const auto until = began + milliseconds(options_.patience_ms);
    auto word_at = began + wait_before_word;
    while (!t.wait_for_members(options_.receivers, pause)) {
      if (stop_.wait_for(milliseconds(0))) return false;
      require_run(t);
      if (clock::now() >= word_at) {
        word_at += wait_between_words;
        const auto here = std::ranges::count_if(t.receivers(), &receiver_status::member);
        std::fprintf(stderr, "lockstep: waiting for receivers: %td of %u are here\n", here,
                     options_.receivers);
      }
      const auto comes = [](const receiver_status& r) { return r.standing == "attaching"; };
      if (came_ && clock::now() >= began + 2 * lease_ && t.wait_for_members(1, milliseconds(0)) &&
          std::ranges::none_of(t.receivers(), comes)) {
        std::fprintf(stderr, "lockstep: fewer than %u receivers have come back; going on without\n",
                     options_.receivers);
        break;
      }
      if (clock::now() >= until)
        throw error(errc::unreachable,
                    fmt::format("fewer than {} receivers have come", options_.receivers));
    }
    came_ = true;
    return true;
  }

  /// Every version of the stream, as often as asked; every round but the first begins with the base
  /// again. Labels go on counting. False if told to stop before.
  bool play_all(trainer& t) {
    if (!stream_) return true;
    if (!began_) began_ = clock::now();
    const auto& versions = stream_->versions();
    if (leads_)
      output_.start(fmt::format("syncing {} versions of {} tensors ({})", versions.size(),
                                base_.shape().count(), human_bytes(base_.shape().total_bytes())));
    const auto span = versions.back().version + 1;
    for (std::uint64_t round = 0; round < options_.rounds; ++round) {
      if (round > 0) {
        weights_.copy_from(base_);
        if (!play(t, round * span)) return false;
      }
      for (std::size_t i = 0; i < versions.size(); ++i) {
        stream_->load(i, weights_);
        if (!play(t, round * span + versions[i].version)) return false;
      }
    }
    return true;
  }

  /// One version, until somebody has it; false if told to stop before.
  bool play(trainer& t, std::uint64_t label) {
    const auto until = clock::now() + milliseconds(options_.patience_ms);
    for (;;) {
      const auto report = sync(t, label, until);
      if (report.result != sync_result::aborted) aborts_.forget();
      const bool told =
          report.result == sync_result::aborted && !aborts_.is_due(report.detail, clock::now());
      if (leads_ && !told) output_.sync(report, held_, t.receivers());
      summary_.seconds = std::chrono::duration<double>(clock::now() - *began_).count();
      if (is_lost(report)) {
        if (stop_.wait_for(milliseconds(0))) return false;
        if (t.ended_by() == errc::fenced)
          lose_run(errc::fenced, {}, ranks_);  // the report may not say so yet
        if (!leads_ && !options_.serve && t.ended_by() == errc::detached) {
          std::fprintf(stderr,
                       "lockstep: rank 0 has ended the run before version %llu, which is this "
                       "rank's next: it was told to, or its --stream or --rounds are others\n",
                       static_cast<unsigned long long>(label));
          return false;
        }
        lose_run(report.reason, report.detail, ranks_);
      }
      summary_.add(report);
      if (report.result != sync_result::aborted) {
        held_ = label;
        if (publication_) publication_->add(weights_, label);
        return !stop_.wait_for(milliseconds(options_.period_ms));
      }
      if (stop_.wait_for(pause)) return false;
      if (clock::now() >= until)
        throw error(errc::timeout,
                    fmt::format("version {} reached nobody: {}", label, report.detail));
    }
  }

  sync_report sync(trainer& t, std::uint64_t label, clock::time_point until) {
    for (;;) {
      try {
        return t.sync(label, pieces()).wait();
      } catch (const error& e) {
        // The rank that leads may still be waiting for receivers.
        if (leads_ || e.code() != errc::timeout || clock::now() >= until) throw;
        if (stop_.wait_for(milliseconds(0))) throw run_lost();
      }
    }
  }

  /// Whether there is no run any more that a further sync could belong to.
  static bool is_lost(const sync_report& r) {
    return r.reason == errc::fenced || r.reason == errc::shut_down ||
           r.reason == errc::unreachable || (r.reason == errc::dead && r.participants.empty());
  }

  /// What every receiver holds now.
  void conclude(const trainer& t) {
    if (publication_) publication_->finish();
    const auto states = t.receivers();
    summary_.receivers.clear();
    for (const auto& a : t.audit()) {
      audit_line line{a.id, a.name, a.pass, a.why_not, 0, 0, 0};
      for (const auto& s : states) {
        if (s.id != a.id) continue;
        line.reseeds = s.reseeds;
        line.catch_ups = s.catch_ups;
        line.restarts = s.restarts;
      }
      summary_.receivers.push_back(std::move(line));
    }
    // An audit that fails since its run is over says nothing of the receivers.
    if (!summary_.pass() && !stop_.wait_for(milliseconds(0))) require_run(t);
    output_.summary(summary_);
    concluded_ = true;
  }

  const trainer_command_options& options_;
  std::uint32_t ranks_ = 1;
  bool leads_ = true;    ///< rank 0
  bool seeded_ = false;  ///< all ranks were there once
  bool came_ = false;    ///< the whole fleet was there once
  milliseconds lease_{0};
  stop_signal stop_;
  checkpoint base_;
  row_split split_;
  std::optional<weight_stream> stream_;
  replay_output output_;
  weight_buffer weights_;
  std::optional<live_publication> publication_;
  std::uint64_t held_ = 0;
  std::optional<clock::time_point> began_;  ///< to read the first version
  repeats aborts_;                          ///< that were printed
  replay_summary summary_;
  bool concluded_ = false;  ///< and said so; of the last play that came to its end
};

}  // namespace

void add_trainer_command(CLI::App& program, std::function<int()>& run) {
  auto* command = program.add_subcommand(
      "trainer", "Play a trainer for receivers in other processes: sync every version of a stream");
  const auto o = std::make_shared<trainer_command_options>();
  command->add_option("--base", o->base, "Checkpoint to begin with")->type_name("DIR")->required();
  command
      ->add_option("--stream", o->stream,
                   "Full checkpoints, or a published stream, one directory a version; none: only "
                   "the base is kept")
      ->type_name("DIR");
  command
      ->add_option("--listen", o->listen,
                   "Where receivers find this process; port 0 takes one that is free")
      ->type_name("HOST:PORT=127.0.0.1:0");
  command
      ->add_option(
          "--receivers", o->receivers,
          "How many must be there before the first sync; after a rank was lost, those that "
          "come back do")
      ->check(plain_number(0, 65'536))
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--rank", o->rank, "Which of the trainer's processes this is; 0 leads")
      ->check(plain_number(0, 4'095))
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--ranks", o->ranks,
                   "How many processes the trainer has; each owns a part of the tensors")
      ->check(plain_number(1, 4'096))
      ->type_name("N")
      ->capture_default_str();
  add_row_shards_option(*command, o->row_shards);
  command->add_option("--coordinator", o->coordinator, "Where rank 0 listens; for the other ranks")
      ->type_name("HOST:PORT");
  command->add_option("--rounds", o->rounds, "How often the whole stream is played")
      ->check(plain_number(1, 1'000'000'000))
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--period-ms", o->period_ms, "Pause after each sync, as training would make")
      ->check(plain_number(0, 86'400'000))
      ->type_name("MS")
      ->capture_default_str();
  command
      ->add_option("--patience-ms", o->patience_ms,
                   "How long to wait for receivers, at first and for each version")
      ->check(plain_number(1, 86'400'000))
      ->type_name("MS")
      ->capture_default_str();
  auto* publish =
      command
          ->add_option("--publish", o->publish,
                       "Stream into which every version goes as well, for hosts that pull")
          ->type_name("DIR");
  add_scheme_option(*command, "--publish-scheme", o->scheme)->needs(publish);
  auto* followers =
      command
          ->add_option(
              "--follower", o->followers,
              "Name of such a host that must acknowledge each version (pull --name). May be "
              "repeated")
          ->type_name("NAME")
          ->allow_extra_args(false)
          ->needs(publish);
  command
      ->add_option("--follower-listen", o->follower_listen,
                   "Where they may acknowledge over connections too (pull --connect)")
      ->type_name("HOST:PORT")
      ->needs(followers);
  command
      ->add_option("--follower-ms", o->follower_ms,
                   "How long to wait for them, and again for those that failed")
      ->check(plain_number(1, 86'400'000))
      ->type_name("MS")
      ->capture_default_str()
      ->needs(publish);
  command->add_flag("--serve", o->serve, "Stay at the last version until SIGTERM or SIGINT");
  command->add_flag("--json", o->json, "One JSON object a line");
  command->add_flag("--insecure", o->insecure,
                    "Leave this machine with neither certificates nor a shared key");
  o->settings.add_to(*command);
  command->callback([o, &run] { run = [o] { return player(*o).run(); }; });
}

}  // namespace lockstep
