#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "apps/commands.hpp"
#include "apps/exit_codes.hpp"
#include "apps/json_line.hpp"
#include "apps/plain_number.hpp"
#include "apps/progress_bar.hpp"
#include "apps/standard_output.hpp"
#include "config/bounded_file.hpp"
#include "messages/errors.hpp"
#include "messages/transient.hpp"
#include "sim/campaign.hpp"
#include "sim/links.hpp"

namespace lockstep {

namespace {

constexpr std::uint64_t seeds_max = 1'000'000'000'000;

struct sim_options {
  std::optional<std::uint64_t> seed;
  std::optional<std::uint64_t> seeds;
  unsigned receivers = 4;
  unsigned syncs = 20;
  unsigned ranks = 1;
  unsigned parts = 0;
  unsigned fanout = 0;
  unsigned link_mb_s = 0;
  std::optional<std::string> faults_file;
  std::vector<std::string> faults;
  std::optional<std::string> broken;
  bool no_digests = false;
  std::optional<std::string> keep;
  unsigned jobs = 0;
  unsigned minutes = 0;
  bool stop = false;
  bool no_shrink = false;
  bool trace = false;
  bool events = false;
  bool json = false;
  bool list = false;
};

std::string read_text(const std::string& name) {
  constexpr std::size_t bytes_max = 1 << 20;
  try {
    return read_at_most(name, bytes_max);
  } catch (const unreadable& e) {
    throw_refused(errc::bad_input, name + ": cannot be read as a file of fault rates: " + e.what(),
                  e.code());
  }
}

/// Where most steps are a fault's, few are left for anybody to act; and ranks wait for each other
/// to seed, which nobody has the patience for where all clocks jump ahead every few steps, and does
/// not come about where each has so many steps to live.
void require_steps(const sim::fault_rates& rates, unsigned ranks) {
  constexpr double swarm_factor = 4;  // by which a seed may make a fault more frequent
  const auto require = [&](const std::string& what, double rate, double most) {
    if ((rates.swarm ? rate * swarm_factor : rate) <= most) return;
    throw error(errc::bad_input,
                fmt::format("{} {:g}, the limit is {:g}{}", what, rate,
                            rates.swarm ? most / swarm_factor : most,
                            rates.swarm ? fmt::format(", or {:g} with swarm=off", most) : ""));
  };
  double sum = 0;
  for (const auto& row : sim::fault_table())
    if (row.unit == sim::per::step) sum += rates[row.id];
  require("the faults of every step come to", sum, 0.5);
  if (ranks == 1) return;
  require("with --ranks clock-jump is", rates[sim::fault_id::clock_jump], 0.05);
  require("with --ranks crash-trainer is", rates[sim::fault_id::crash_trainer], 0.2);
}

/// Who asks for more of what strikes ranks wants to see it strike.
void require_ranks(const sim::fault_rates& rates, unsigned ranks) {
  for (const auto& row : sim::fault_table())
    if (ranks == 1 && row.unit == sim::per::rank && rates[row.id] > row.rate)
      throw error(errc::bad_input,
                  fmt::format("{} strikes ranks: it goes with --ranks 2 or more", row.name));
}

/// Likewise of what nothing but a digest finds.
void require_digests(const sim::fault_rates& rates) {
  for (const auto& row : sim::fault_table())
    if ((row.id == sim::fault_id::lie || row.id == sim::fault_id::rot) && rates[row.id] > row.rate)
      throw error(
          errc::bad_input,
          fmt::format("{} is found by digests alone: it goes without --no-digests", row.name));
}

sim::run_options each_of(const sim_options& o) {
  sim::run_options out;
  out.seed = o.seed.value_or(0);
  out.receivers = o.receivers;
  out.syncs = o.syncs;
  out.ranks = o.ranks;
  out.parts = o.parts;
  out.fanout = o.fanout;
  if (o.faults_file) sim::read_rates(out.rates, read_text(*o.faults_file), *o.faults_file);
  for (const auto& text : o.faults) sim::set_rate(out.rates, text);
  require_steps(out.rates, out.ranks);
  require_ranks(out.rates, out.ranks);
  if (o.no_digests) require_digests(out.rates);
  if (o.broken) {
    const auto found = sim::parse_variant(*o.broken);
    if (!found) {
      std::string names;
      for (const auto& row : sim::variant_table())
        names += (names.empty() ? "" : ", ") + std::string(row.name);
      throw error(errc::bad_input, "--break " + *o.broken + ": must be one of " + names);
    }
    out.broken = *found;
  }
  out.digests = !o.no_digests;
  if (!o.keep) return out;
  out.keep.emplace();
  const std::string_view kept = *o.keep;
  for (std::size_t at = 0; kept != "none" && at <= kept.size();) {
    const auto end = std::min(kept.find(',', at), kept.size());
    const auto parsed = sim::parse_strike(kept.substr(at, end - at));
    if (!parsed)
      throw error(errc::bad_input, "--keep " + *o.keep + ": expected none or FAULT:N,FAULT:N,…");
    out.keep->insert(*parsed);
    at = end + 1;
  }
  return out;
}

std::string quoted(const std::string& text) {
  if (text.find_first_not_of(
          "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./=-,:") ==
      std::string::npos)
    return text;
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}

/// The command that runs `each` again.
std::string replay_of(const sim_options& o, const sim::run_options& each) {
  auto out = fmt::format("lockstep sim --seed {} --receivers {} --syncs {}", each.seed,
                         each.receivers, each.syncs);
  if (each.ranks != 1) out += fmt::format(" --ranks {}", each.ranks);
  if (each.parts != 0) out += fmt::format(" --parts {}", each.parts);
  if (each.fanout != 0) out += fmt::format(" --fanout {}", each.fanout);
  if (o.faults_file) out += " --faults " + quoted(*o.faults_file);
  for (const auto& text : o.faults) out += " --fault " + quoted(text);
  if (o.broken) out += " --break " + *o.broken;
  if (o.no_digests) out += " --no-digests";
  if (each.keep) {
    std::string kept;
    for (const auto& s : *each.keep) kept += (kept.empty() ? "" : ",") + to_string(s);
    out += " --keep " + (kept.empty() ? "none" : kept);
  }
  return out + " --trace";
}

int list_faults(bool json) {
  if (!json) print_out(fmt::format("{:15} {:>8} of every {:8} {}\n", "fault", "rate", "", "what"));
  for (const auto& row : sim::fault_table()) {
    if (json) {
      print_out(json_line(nlohmann::ordered_json{{"kind", "fault"},
                                                 {"name", row.name},
                                                 {"rate", row.rate},
                                                 {"per", to_string(row.unit)},
                                                 {"help", row.help}}));
    } else {
      print_out(fmt::format("{:15} {:8} of every {:8} {}\n", row.name, row.rate,
                            to_string(row.unit), row.help));
    }
  }
  return exit_ok;
}

class simulator {
 public:
  explicit simulator(const sim_options& o) : o_(o) {}

  int run() {
    campaign_.each = each_of(o_);
    // As many as there is time for, unless a number was named.
    campaign_.seeds = o_.seeds.value_or(o_.minutes != 0 ? seeds_max : o_.seed ? 1 : 1000);
    campaign_.time_max = std::chrono::minutes(o_.minutes);
    const auto cores = std::max(std::thread::hardware_concurrency(), 1u);
    campaign_.jobs = static_cast<unsigned>(
        std::min<std::uint64_t>(o_.jobs != 0 ? o_.jobs : cores, campaign_.seeds));
    campaign_.stop_at_first = o_.stop;
    if (o_.trace || o_.events) return trace();
    const auto began = std::chrono::steady_clock::now();
    progress_bar bar(campaign_.seeds);
    const auto sums =
        sim::run_campaign(campaign_, [&](std::uint64_t done) { bar.show(done, "seeds"); });
    bar.clear();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    if (sums.first_bad_seed) complain(sums);
    summarize(sums, took.count());
    return sums.violations == 0 ? exit_ok : exit_check_failed;
  }

 private:
  /// Seed by seed, in this process, line by line.
  int trace() {
    sim::campaign_result sums;
    const auto until = std::chrono::steady_clock::now() + campaign_.time_max;
    for (std::uint64_t i = 0; i < campaign_.seeds; ++i) {
      auto each = campaign_.each;
      each.seed += i;
      each.level = o_.trace ? sim::trace_level::steps : sim::trace_level::events;
      // What is thrown must not pass through the actors that are being watched.
      std::exception_ptr unwritable;
      each.to = [&](std::string_view line) {
        if (unwritable) return;
        try {
          print_line(each.seed, line);
        } catch (const error&) {
          unwritable = std::current_exception();
        }
      };
      const auto r = sim::run(each);
      if (unwritable) std::rethrow_exception(unwritable);
      sim::add(sums, each.seed, r);
      const bool late = o_.minutes != 0 && std::chrono::steady_clock::now() >= until;
      if ((!r.violation.empty() && o_.stop) || late) break;
    }
    // The log of a replay says it already; a program reads objects.
    if (sums.first_bad_seed && (o_.json || !campaign_.each.keep)) complain(sums);
    summarize(sums, 0);
    return sums.violations == 0 ? exit_ok : exit_check_failed;
  }

  void print_line(std::uint64_t seed, std::string_view line) const {
    if (!o_.json) return print_out(std::string(line) + '\n');
    const nlohmann::ordered_json out{{"kind", "trace"}, {"seed", seed}, {"line", line}};
    print_out(json_line(out));
  }

  void complain(const sim::campaign_result& sums) {
    auto bad = campaign_.each;
    bad.seed = *sums.first_bad_seed;
    // At once: to make it small may take long.
    if (!o_.json) print_out(fmt::format("seed {}: {}\n", bad.seed, sums.first_violation));
    const bool replayed = campaign_.each.keep && (o_.trace || o_.events);
    const auto small = o_.no_shrink || replayed ? sim::small_run{bad, {}} : sim::shrink(bad);
    const auto replay = replay_of(o_, small.run);
    const auto& ends = small.violation.empty() ? sums.first_violation : small.violation;
    if (o_.json) {
      print_out(json_line(nlohmann::ordered_json{{"kind", "violation"},
                                                 {"seed", bad.seed},
                                                 {"what", sums.first_violation},
                                                 {"replay", replay},
                                                 {"replay_what", ends}}));
    } else {
      print_out(fmt::format("see it with: {}\n", replay));
      if (ends != sums.first_violation) print_out(fmt::format("which ends with: {}\n", ends));
    }
  }

  void summarize(const sim::campaign_result& s, double seconds) {
    if (o_.json) {
      nlohmann::ordered_json faults = nlohmann::ordered_json::object();
      for (const auto& row : sim::fault_table())
        faults[std::string(row.name)] = s.faults[static_cast<std::size_t>(row.id)];
      nlohmann::ordered_json line{
          {"kind", "summary"}, {"seeds", s.seeds}, {"violations", s.violations}};
      line["first_bad_seed"] =
          s.first_bad_seed ? nlohmann::ordered_json(*s.first_bad_seed) : nlohmann::ordered_json();
      line["steps"] = s.steps;
      line["faults"] = std::move(faults);
      auto& met = line["consequences"] = nlohmann::ordered_json::object();
      for (std::size_t i = 0; i < sim::consequence_count; ++i)
        met[std::string(to_string(static_cast<sim::consequence>(i)))] = s.met[i];
      line["syncs"] = {{"ok", s.ok},
                       {"recovered", s.recovered},
                       {"degraded", s.degraded},
                       {"aborted", s.aborted},
                       {"lost", s.lost}};
      line["reseeds"] = s.reseeds;
      line["catch_ups"] = s.catch_ups;
      line["virtual_seconds"] = std::chrono::duration<double>(s.virtual_time).count();
      line["trace_hash"] = fmt::format("{:016x}", s.hash);
      print_out(json_line(line));
      return;
    }
    std::uint64_t faults = 0;
    for (const auto n : s.faults) faults += n;
    print_out(fmt::format(
        "{} seeds, {} violations; {} steps, {} faults struck, {:.0f} s of virtual time{}\n"
        "syncs: {} ok, {} recovered, {} degraded, {} aborted, {} lost with their trainer; {} "
        "reseeds, {} caught up\n"
        "trace hash {:016x}\n",
        s.seeds, s.violations, s.steps, faults,
        std::chrono::duration<double>(s.virtual_time).count(),
        seconds > 0 ? fmt::format("; {:.1f} s, {:.0f} seeds a minute", seconds,
                                  60 * static_cast<double>(s.seeds) / seconds)
                    : "",
        s.ok, s.recovered, s.degraded, s.aborted, s.lost, s.reseeds, s.catch_ups, s.hash));
  }

  sim_options o_;
  sim::campaign_options campaign_;
};

}  // namespace

namespace {

/// How long one sync takes on links of this speed, against a fleet of one.
int measure_links(const sim_options& o) {
  sim::link_options each;
  each.seed = o.seed.value_or(0);
  each.link_bytes_per_s = std::uint64_t{o.link_mb_s} * 1'000'000;
  each.fanout = 0;
  each.receivers = 1;
  const auto one = sim::measure_links(each);
  each.fanout = o.fanout;
  each.receivers = o.receivers;
  const auto all = sim::measure_links(each);
  const auto deltas = [&](std::uint64_t bytes) {
    return static_cast<double>(bytes) / static_cast<double>(all.delta_bytes);
  };
  if (o.json)
    print_out(
        fmt::format("{{\"kind\":\"links\",\"receivers\":{},\"fanout\":{},\"link_bytes_per_s\":{},"
                    "\"delta_bytes\":{},\"seconds\":{},\"seconds_of_one\":{},\"trainer_bytes\":{},"
                    "\"receiver_bytes_max\":{}}}\n",
                    o.receivers, o.fanout, each.link_bytes_per_s, all.delta_bytes, all.seconds,
                    one.seconds, all.trainer_bytes, all.receiver_bytes_max));
  else
    print_out(
        fmt::format("{} receivers, fan-out {}, links of {} MB/s, a delta of {:.2f} MB\n"
                    "one sync: {:.3f} s, {:.2f} x that of one receiver ({:.3f} s)\n"
                    "sent by the trainer: {:.2f} deltas; by a receiver at most {:.2f}\n",
                    o.receivers, o.fanout, o.link_mb_s, static_cast<double>(all.delta_bytes) / 1e6,
                    all.seconds, all.seconds / one.seconds, one.seconds, deltas(all.trainer_bytes),
                    deltas(all.receiver_bytes_max)));
  return 0;
}

}  // namespace

void add_sim_command(CLI::App& program, std::function<int()>& run) {
  auto* command = program.add_subcommand(
      "sim", "Simulate a whole fleet under faults, in virtual time, and check every promise");
  const auto o = std::make_shared<sim_options>();
  command->add_option("--seed", o->seed, "The seed to run, or the first of --seeds")
      ->check(plain_number(0, std::numeric_limits<std::uint64_t>::max() - seeds_max))
      ->type_name("S");
  command->add_option("--seeds", o->seeds, "How many seeds to run; without --seed from 0")
      ->check(plain_number(1, seeds_max))
      ->type_name("N");
  command->add_option("--minutes", o->minutes, "Begin no seed after so many minutes")
      ->check(plain_number(1, 100'000))
      ->type_name("M");
  command->add_option("--receivers", o->receivers, "Receivers at the start")
      ->check(plain_number(1, 64))
      ->type_name("R")
      ->capture_default_str();
  command->add_option("--syncs", o->syncs, "Syncs asked for while faults strike")
      ->check(plain_number(1, 100'000))
      ->type_name("K")
      ->capture_default_str();
  command->add_option("--ranks", o->ranks, "Processes of each trainer, which share the tensors")
      ->check(plain_number(1, 4))
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--parts", o->parts,
                   "Different parts of the tensors that receivers take, some all; 0: all take all")
      ->check(plain_number(0, 64))
      ->type_name("P")
      ->capture_default_str();
  command
      ->add_option("--fanout", o->fanout,
                   "Receivers that one passes a stripe of each delta on to; 0: none does")
      ->check(plain_number(0, 16))
      ->type_name("K")
      ->capture_default_str();
  auto* const link_mb_s =
      command
          ->add_option("--link-mb-s", o->link_mb_s,
                       "Measure one sync without faults on links of this speed, and nothing else")
          ->check(plain_number(1, 1'000'000))
          ->type_name("MB/S");
  command->add_option("--faults", o->faults_file, "Read fault rates from a file of NAME=RATE lines")
      ->type_name("FILE");
  command
      ->add_option("--fault", o->faults,
                   "Set one fault's rate, 0 to 1, or all to 0 (none). May be repeated")
      ->type_name("NAME=RATE")
      ->allow_extra_args(false);
  auto* const list =
      command->add_flag("--list-faults", o->list, "Print every fault, its rate and what it does");
  command->add_option("--break", o->broken, "Run a protocol that is broken on purpose")
      ->type_name("VARIANT");
  command->add_flag("--no-digests", o->no_digests,
                    "No receiver compares what its weights digest to, but to attach");
  command->add_option("--keep", o->keep, "Only these strikes happen: FAULT:N,… or none")
      ->type_name("STRIKES");
  command->add_option("--jobs", o->jobs, "Processes; by default one for each core")
      ->check(plain_number(1, 256))
      ->type_name("J");
  command->add_flag("--stop", o->stop, "Stop at the first violation");
  command->add_flag("--no-shrink", o->no_shrink, "Do not look for fewer faults that do the same");
  command->add_flag("--trace", o->trace, "Print every message, in order");
  command->add_flag("--events", o->events, "Print faults, reports, and who comes and goes");
  command->add_flag("--json", o->json, "One JSON object a line");
  // The list is that of the program, whatever else is said.
  for (auto* const other : command->get_options())
    if (other != list && other->get_name() != "--json" && other->get_name() != "--help")
      list->excludes(other);
  // Measuring has no use for these, and must not look as if it had.
  for (const char* name : {"--seeds", "--minutes", "--syncs", "--ranks", "--parts", "--faults",
                           "--fault", "--list-faults", "--break", "--no-digests", "--keep",
                           "--jobs", "--stop", "--no-shrink", "--trace", "--events"})
    link_mb_s->excludes(command->get_option(name));
  command->callback([o, &run] {
    run = [o] {
      if (o->link_mb_s != 0) return measure_links(*o);
      return o->list ? list_faults(o->json) : simulator(*o).run();
    };
  });
}

}  // namespace lockstep
