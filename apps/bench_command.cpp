// lockstep bench: measures this machine on real or made-up data.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "apps/bench_codec.hpp"
#include "apps/bench_data.hpp"
#include "apps/bench_sync.hpp"
#include "apps/commands.hpp"
#include "apps/exit_codes.hpp"
#include "apps/plain_number.hpp"
#include "apps/standard_output.hpp"
#include "messages/errors.hpp"

namespace lockstep {
namespace {

/// What is measured on.
struct data_options {
  std::string trace;
  std::string synthetic;

  void add_to(CLI::App& command) {
    command
        .add_option("--trace", trace, "A folder with base/, a checkpoint, and stream/, versions")
        ->type_name("DIR");
    command
        .add_option("--synthetic", synthetic,
                    "Made-up bf16 weights of a size and density of change: 1GiB,0.01")
        ->type_name("SIZE,DENSITY");
  }

  bench_data load() const {
    if (trace.empty() == synthetic.empty())
      throw error(errc::bad_input, "say --trace DIR or --synthetic SIZE,DENSITY");
    if (!trace.empty()) return bench_data::trace(trace);
    const auto size = parse_synthetic(synthetic);
    if (!size)
      throw error(
          errc::bad_input,
          "--synthetic takes a size and a density, as in 1GiB,0.01; not '" + synthetic + "'");
    return bench_data::synthetic(*size);
  }
};

struct codec_options {
  data_options data;
  std::string write;
  std::vector<std::string> implementations;
  unsigned threads = 1;
  unsigned repeats = 5;
  bool json = false;
};

kernels::implementation parse_implementation(const std::string& name) {
  for (const auto which : kernels::available_implementations())
    if (name == kernels::to_string(which)) return which;
  throw error(errc::bad_input, "'" + name + "' is no implementation that this machine has");
}

double ratio(double a, double b) {
  return b > 0 ? a / b : 0;
}

/// What is printed of a result.
struct figures {
  explicit figures(const codec_result& r)
      : density(ratio(double(r.changed), double(r.elements))),
        bytes_per_changed(ratio(double(r.wire), double(r.changed))),
        bound(ratio(r.bound, double(r.changed))),
        encode(ratio(double(r.bytes), r.encode_seconds) / 1e9),
        apply(ratio(double(r.bytes), r.stage_seconds + r.apply_seconds) / 1e9),
        memcpy(ratio(double(r.bytes), r.memcpy_seconds) / 1e9),
        percent(100 * ratio(double(r.wire), double(r.bytes))),
        verify(ratio(r.digest_seconds, r.stage_seconds + r.apply_seconds)) {}

  double density, bytes_per_changed, bound, encode, apply, memcpy, percent, verify;
};

void print_json(const codec_result& r, unsigned threads) {
  const figures f(r);
  nlohmann::ordered_json line{{"dtype", to_string(r.type)},
                              {"encoding", to_string(r.encoding)},
                              {"implementation", kernels::to_string(r.which)},
                              {"threads", threads},
                              {"density", f.density},
                              {"bytes_per_changed", f.bytes_per_changed},
                              {"bound_bytes_per_changed", f.bound},
                              {"ratio_to_bound", ratio(f.bytes_per_changed, f.bound)},
                              {"percent_of_full", f.percent},
                              {"encode_gb_s", f.encode},
                              {"stage_gb_s", ratio(double(r.bytes), r.stage_seconds) / 1e9},
                              {"apply_gb_s", f.apply},
                              {"memcpy_gb_s", f.memcpy},
                              {"encode_x_memcpy", ratio(f.encode, f.memcpy)},
                              {"apply_x_memcpy", ratio(f.apply, f.memcpy)}};
  if (threads == 1) line["base_digest_share_of_apply"] = f.verify;
  line["bytes"] = r.bytes;
  line["changed"] = r.changed;
  line["wire_bytes"] = r.wire;
  print_out(line.dump() + '\n');
}

void print_table(const std::vector<codec_result>& results, unsigned threads) {
  print_out(fmt::format(
      "{} thread{}; GB/s are of full weights; apply: decoded, base and target proven, written\n"
      "{:8} {:6} {:9} {:>8} {:>10} {:>7} {:>8} {:>11} {:>14} {:>14} {:>7}\n",
      threads, threads == 1 ? "" : "s", "dtype", "coding", "loops", "changed", "B/change", "bound",
      "% full", "encode GB/s", "(x memcpy)", "apply GB/s", "memcpy"));
  for (const auto& r : results) {
    const figures f(r);
    print_out(fmt::format(
        "{:8} {:6} {:9} {:7.3f}% {:10.4f} {:7.4f} {:7.3f}% {:11.2f} {:>14} {:14} {:7.2f}\n",
        to_string(r.type), to_string(r.encoding), kernels::to_string(r.which), 100 * f.density,
        f.bytes_per_changed, f.bound, f.percent, f.encode,
        fmt::format("({:.2f})", ratio(f.encode, f.memcpy)),
        fmt::format("{:.2f} ({:.2f})", f.apply, ratio(f.apply, f.memcpy)), f.memcpy));
  }
}

int run_codec(const codec_options& o) {
  codec_bench_options options;
  options.threads = o.threads;
  options.repeats = o.repeats;
  options.write = o.write;
  for (const auto& name : o.implementations)
    options.implementations.push_back(parse_implementation(name));
  auto data = o.data.load();
  const auto results = bench_codec(data, options);
  if (o.json)
    for (const auto& r : results) print_json(r, o.threads);
  else
    print_table(results, o.threads);
  return exit_ok;
}

struct sync_options {
  data_options data;
  settings_options settings;
  std::uint32_t receivers = 1;
  std::uint32_t syncs = 6;
  bool json = false;
};

double median_of(const std::vector<sync_result_of_bench>& results, auto figure) {
  std::vector<double> all;
  for (const auto& r : results) all.push_back(figure(r).count());
  const auto middle = all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2);
  std::nth_element(all.begin(), middle, all.end());
  return *middle;
}

int run_sync(const sync_options& o) {
  sync_bench_options options;
  options.runtime = o.settings.load().build();
  options.receivers = o.receivers;
  options.syncs = o.syncs;
  auto data = o.data.load();
  const auto results = bench_sync(data, options);
  using result = sync_result_of_bench;
  const std::vector<std::pair<std::string, double>> stages{
      {"encode", median_of(results, [](const result& r) { return r.report.encode; })},
      {"ship", median_of(results, [](const result& r) { return r.report.ship; })},
      {"vote", median_of(results, [](const result& r) { return r.report.vote; })},
      {"commit", median_of(results, [](const result& r) { return r.report.commit; })}};
  const auto total = median_of(results, [](const result& r) { return r.report.total; });
  const auto released = median_of(results, [](const result& r) { return r.released; });
  const auto copied = median_of(results, [](const result& r) { return r.copied; });
  const auto slowest =
      *std::ranges::max_element(stages, {}, [](const auto& s) { return s.second; });
  const auto& last = results.back().report;
  const auto changed = 100 * ratio(double(last.changed), double(last.elements));
  const auto full = double(last.full_bytes);
  if (o.json) {
    nlohmann::ordered_json line{{"kind", "sync"},
                                {"receivers", o.receivers},
                                {"syncs", results.size()},
                                {"full_bytes", last.full_bytes},
                                {"changed_percent", changed},
                                {"wire_bytes", last.wire_bytes},
                                {"seconds", nullptr},
                                {"slowest", slowest.first},
                                {"total_x_slowest", ratio(total, slowest.second)},
                                {"total_gb_s", ratio(full, total) / 1e9},
                                {"memcpy_gb_s", ratio(full, copied) / 1e9}};
    auto& seconds = line["seconds"] = nlohmann::ordered_json::object();
    for (const auto& [name, time] : stages) seconds[name] = time;
    seconds["total"] = total;
    seconds["until_tensors_are_free"] = released;
    seconds["memcpy"] = copied;
    print_out(line.dump() + '\n');
    return exit_ok;
  }
  print_out(
      fmt::format("{} syncs of {:.1f} MB to {} receiver{}, {:.3f} % changed, {:.3f} % of the bytes "
                  "shipped; medians\n",
                  results.size(), full / 1e6, o.receivers, o.receivers == 1 ? "" : "s", changed,
                  100 * ratio(double(last.wire_bytes), full)));
  const auto row = [&](std::string_view name, double time) {
    print_out(
        fmt::format("{:22} {:9.1f} ms {:7.2f} GB/s\n", name, 1e3 * time, ratio(full, time) / 1e9));
  };
  for (const auto& [name, time] : stages) row(name, time);
  row("total", total);
  row("until tensors are free", released);
  row("memcpy, one thread", copied);
  print_out(fmt::format("the total is {:.2f} x the slowest stage, {}\n",
                        ratio(total, slowest.second), slowest.first));
  return exit_ok;
}

}  // namespace

void add_bench_command(CLI::App& program, std::function<int()>& run) {
  auto* command = program.add_subcommand("bench", "Measure this machine");
  command->require_subcommand(1);
  auto* codec = command->add_subcommand(
      "codec", "Bytes and speed of every encoding and implementation, beside memcpy");
  const auto o = std::make_shared<codec_options>();
  o->data.add_to(*codec);
  codec->add_option("--threads", o->threads, "Threads that encode, stage, write and copy")
      ->check(plain_number(1, 256))
      ->type_name("N")
      ->capture_default_str();
  codec->add_option("--repeats", o->repeats, "Repeats of which the median counts")
      ->check(plain_number(1, 1000))
      ->type_name("R")
      ->capture_default_str();
  codec
      ->add_option("--implementation", o->implementations,
                   "Only this one: portable, sse4, avx2, avx512, avx512_dl, neon. May be repeated")
      ->type_name("NAME")
      ->allow_extra_args(false);
  codec->add_option("--write", o->write, "Write the first step as a folder for --trace")
      ->type_name("DIR");
  codec->add_flag("--json", o->json, "One JSON object a line");
  codec->callback([o, &run] { run = [o] { return run_codec(*o); }; });

  auto* sync = command->add_subcommand(
      "sync", "Whole syncs in this process: every stage, beside a memcpy of the weights");
  const auto s = std::make_shared<sync_options>();
  s->data.add_to(*sync);
  sync->add_option("--receivers", s->receivers, "How many receivers, each with its own weights")
      ->check(plain_number(1, 64))
      ->type_name("N")
      ->capture_default_str();
  sync->add_option("--syncs", s->syncs, "Syncs of which the median counts; one goes before them")
      ->check(plain_number(1, 10'000))
      ->type_name("K")
      ->capture_default_str();
  sync->add_flag("--json", s->json, "One JSON object a line");
  s->settings.add_to(*sync);
  sync->callback([s, &run] { run = [s] { return run_sync(*s); }; });
}

}  // namespace lockstep
