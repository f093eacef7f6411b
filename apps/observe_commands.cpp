// `lockstep status` and `lockstep audit`: what a fleet is doing, and whether it holds what it
// should.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "actors/patience.hpp"
#include "apps/commands.hpp"
#include "apps/exit_codes.hpp"
#include "apps/json_line.hpp"
#include "apps/observer.hpp"
#include "apps/plain_number.hpp"
#include "apps/replay_output.hpp"
#include "apps/standard_output.hpp"
#include "apps/stop_signal.hpp"
#include "messages/printable.hpp"

namespace lockstep {

namespace {

using json = nlohmann::ordered_json;
using std::chrono::milliseconds;

struct observe_options {
  settings_options settings;
  std::string address;
  std::uint32_t timeout_ms = 10'000;
  std::uint32_t period_ms = 1'000;
  bool watch = false;
  bool json = false;
  bool insecure = false;
};

void print(const json& line) {
  print_out(json_line(line));
}

/// Versions between what a receiver holds and what the fleet holds; nothing if that cannot be said.
std::optional<std::uint64_t> lag_of(const receiver_status& s, version_ref fleet) {
  if (!fleet || s.state.version.run != fleet.run || s.state.version.number > fleet.number)
    return std::nullopt;
  return fleet.number - s.state.version.number;
}

/// What was sent since the status before, in bytes a second.
double rate_of(const receiver_status& s, const std::vector<receiver_status>& before,
               double seconds) {
  for (const auto& b : before)
    if (b.id == s.id && b.sent_bytes <= s.sent_bytes && seconds > 0)
      return static_cast<double>(s.sent_bytes - b.sent_bytes) / seconds;
  return 0;
}

json to_json(const receiver_status& s, version_ref fleet) {
  const auto lag = lag_of(s, fleet);
  return {{"id", s.id},
          {"name", s.name},
          {"member", s.member},
          {"standing", s.standing},
          {"ready", s.state.ready},
          {"phase", to_string(s.state.phase)},
          {"version", to_string(s.state.version)},
          {"label", s.state.label},
          {"lag", lag ? json(*lag) : json()},
          {"phase_ms", s.phase_ms},
          {"heard_ms", s.heard_ms},
          {"reason", to_string(s.reason == errc::none ? s.state.reason : s.reason)},
          {"detail", s.detail},
          {"reseeds", s.reseeds},
          {"catch_ups", s.catch_ups},
          {"restarts", s.restarts},
          {"sent_bytes", s.sent_bytes},
          {"tensors", s.tensors},
          {"part_bytes", s.part_bytes}};
}

std::uint64_t relayed_to(const answer_of_fleet& a, receiver_id id) {
  for (const auto& r : a.relays.relayed)
    if (r.id == id) return r.bytes;
  return 0;
}

/// From whom a receiver has which stripes.
json feeds_of(const answer_of_fleet& a, receiver_id id) {
  json out = json::array();
  for (const auto& f : a.relays.feeds)
    if (f.id == id)
      out.push_back(
          {{"stripe", f.stripe}, {"stripes", f.stripes}, {"parent", f.parent}, {"up", f.up}});
  return out;
}

const receiver_failure* failure_of(const answer_of_fleet& a, receiver_id id) {
  const auto it = std::ranges::find(a.failures, id, &receiver_failure::id);
  return it == a.failures.end() ? nullptr : &*it;
}

json to_json(const receiver_failure& f) {
  return {{"reason", to_string(f.reason)}, {"detail", f.detail}, {"ago_ms", f.ago_ms}};
}

std::string reason_of(errc reason, const std::string& detail) {
  return std::string(to_string(reason)) + (detail.empty() ? "" : ": " + printable(detail));
}

/// Whether it is ready, or why not; and what it failed for last, if that is something else.
std::string word_of(const receiver_status& s, const receiver_failure* last) {
  const auto reason = s.reason == errc::none ? s.state.reason : s.reason;
  auto out = s.state.ready ? "ready" + (s.detail.empty() ? "" : ": " + printable(s.detail))
                           : reason_of(reason, s.detail);
  if (last != nullptr && (last->reason != s.reason || last->detail != s.detail))
    out += fmt::format("; {} ago {}", human_seconds(static_cast<double>(last->ago_ms) / 1000),
                       reason_of(last->reason, last->detail));
  return out;
}

void print_status_json(const answer_of_fleet& a, const std::vector<receiver_status>& before,
                       double seconds) {
  json receivers = json::array();
  for (const auto& s : a.states) {
    const auto* last = failure_of(a, s.id);
    receivers.push_back(to_json(s, a.end.fleet));
    receivers.back()["last_error"] = last ? to_json(*last) : json();
    receivers.back()["bytes_per_s"] = rate_of(s, before, seconds);
    receivers.back()["relayed_bytes"] = relayed_to(a, s.id);
    receivers.back()["feeds"] = feeds_of(a, s.id);
  }
  print({{"kind", "status"},
         {"version", to_string(a.end.fleet)},
         {"reason", to_string(a.end.reason)},
         {"receivers", std::move(receivers)}});
}

/// Why a trainer that answers has no run.
std::string_view without_run(errc reason) {
  if (reason == errc::unreachable) return "the trainer waits for its other ranks";
  if (reason == errc::fenced) return "a newer run of the trainer leads";
  return "no trainer's side is up: it was not seeded yet, or it has ended";
}

void print_status(const observe_options& o, const answer_of_fleet& a,
                  const std::vector<receiver_status>& before, double seconds) {
  if (o.json) return print_status_json(a, before, seconds);
  auto text = a.end.fleet
                  ? fmt::format("the fleet holds {}\n", to_string(a.end.fleet))
                  : fmt::format("the fleet holds no version: {}\n", without_run(a.end.reason));
  constexpr auto row =
      "{:>5} {:<20} {:<11} {:<9} {:>7} {:>5} {:>9} {:>9} {}{:>8} {:>8} {:>7} {:>9}  {}\n";
  const auto rate = [&o](const std::string& what) {
    return o.watch ? fmt::format("{:>11} ", what) : std::string();
  };
  text += fmt::format(row, "id", "name", "standing", "phase", "label", "lag", "for", "sent",
                      rate("a second"), "reseeds", "restarts", "tensors", "of bytes", "reason");
  for (const auto& s : a.states) {
    const auto lag = lag_of(s, a.end.fleet);
    const auto now = static_cast<std::uint64_t>(rate_of(s, before, seconds));
    text += fmt::format(row, s.id, printable(s.name), s.standing, to_string(s.state.phase),
                        s.state.label, lag ? std::to_string(*lag) : std::string("-"),
                        human_seconds(static_cast<double>(s.phase_ms) / 1000),
                        human_bytes(s.sent_bytes), rate(before.empty() ? "-" : human_bytes(now)),
                        s.reseeds, s.restarts, s.tensors, human_bytes(s.part_bytes),
                        word_of(s, failure_of(a, s.id)));
  }
  for (const auto& r : a.relays.relayed)
    text += fmt::format("{} was brought {} by other receivers\n", r.id, human_bytes(r.bytes));
  for (const auto& f : a.relays.feeds)
    text += fmt::format("{} has stripe {} of {} from {}{}\n", f.id, f.stripe, f.stripes, f.parent,
                        f.up ? "" : ", once they are linked");
  print_out(text);
}

/// The trainer was asked in vain, and is asked again after `wait`.
void print_unreached(const observe_options& o, const error& why, milliseconds wait) {
  if (o.json)
    return print({{"kind", "unreached"},
                  {"reason", to_string(why.code())},
                  {"detail", why.what()},
                  {"retry_ms", wait.count()}});
  print_out(fmt::format("the trainer is not reached: {}; trying again in {}\n",
                        printable(why.what()),
                        human_seconds(std::chrono::duration<double>(wait).count())));
}

/// Again and again until told to stop. A trainer that is away is waited for, tried less and less
/// often like by a receiver.
int watch_status(const observe_options& o, const settings& options) {
  const auto& t = options.transport;
  stop_signal stop;
  std::vector<receiver_status> before;
  std::uint32_t failures = 0;
  for (;;) {
    milliseconds wait(o.period_ms);
    try {
      auto seen = ask_fleet(options, o.address, question::status, milliseconds(o.timeout_ms),
                            [&stop] { return stop.wait_for(milliseconds(0)); });
      print_status(o, seen, before, static_cast<double>(o.period_ms) / 1000);
      before = std::move(seen.states);
      failures = 0;
    } catch (const error& e) {
      if (e.code() == errc::shut_down) return exit_ok;
      if (exit_code_of(e) != exit_unreachable) throw;
      wait = wait_after(failures++, t.retry_ms, t.retry_ms_max);
      before.clear();
      print_unreached(o, e, wait);
    }
    if (stop.wait_for(wait)) return exit_ok;
  }
}

int run_status(const observe_options& o) {
  const auto options = o.settings.build(o.insecure);
  if (o.watch) return watch_status(o, options);
  print_status(o, ask_fleet(options, o.address, question::status, milliseconds(o.timeout_ms)), {},
               0);
  return exit_ok;
}

int run_audit(const observe_options& o) {
  const auto options = o.settings.build(o.insecure);
  const auto a = ask_fleet(options, o.address, question::audit, milliseconds(o.timeout_ms));
  if (a.end.reason != errc::none)
    throw error(errc::unreachable,
                fmt::format("there is nothing to compare with: {} ({})",
                            a.end.reason == errc::shut_down
                                ? "no trainer's side is up, or it has ended meanwhile"
                                : without_run(a.end.reason),
                            to_string(a.end.reason)));
  const bool pass = !a.audits.empty() && std::ranges::all_of(a.audits, &receiver_audit::pass);
  if (o.json) {
    json receivers = json::array();
    for (const auto& r : a.audits)
      receivers.push_back({{"id", r.id},
                           {"name", r.name},
                           {"version", to_string(r.version)},
                           {"pass", r.pass},
                           {"why_not", r.why_not}});
    print({{"kind", "audit"},
           {"version", to_string(a.end.fleet)},
           {"pass", pass},
           {"receivers", std::move(receivers)}});
  } else {
    std::string text;
    for (const auto& r : a.audits)
      text += fmt::format("audit {}: {}{}{}\n", printable(r.name), r.pass ? "pass" : "FAIL",
                          r.pass ? " at " : ": ", r.pass ? to_string(r.version) : r.why_not);
    if (a.audits.empty()) text = "there is no receiver\n";
    print_out(text + fmt::format("audit: {}\n", pass ? "pass" : "fail"));
  }
  return pass ? exit_ok : exit_check_failed;
}

CLI::App* add_observer(CLI::App& program, const std::string& name, const std::string& help,
                       const std::shared_ptr<observe_options>& o, std::uint32_t timeout_ms) {
  auto* command = program.add_subcommand(name, help);
  o->timeout_ms = timeout_ms;
  command->add_option("address", o->address, "Where the trainer's process listens")
      ->type_name("HOST:PORT")
      ->required();
  command->add_option("--timeout-ms", o->timeout_ms, "How long to wait for the answer")
      ->check(plain_number(1, 86'400'000))
      ->type_name("MS")
      ->capture_default_str();
  command->add_flag("--json", o->json, "One JSON object a line");
  command->add_flag("--insecure", o->insecure,
                    "Leave this machine with neither certificates nor a shared key");
  o->settings.add_to(*command);
  return command;
}

}  // namespace

void add_status_command(CLI::App& program, std::function<int()>& run) {
  const auto o = std::make_shared<observe_options>();
  auto* command = add_observer(
      program, "status", "Say where every receiver of a fleet stands, and for how long", o, 10'000);
  command->add_flag("--watch", o->watch, "Go on until interrupted, also while the trainer is away");
  command->add_option("--period-ms", o->period_ms, "Between two looks")
      ->check(plain_number(10, 86'400'000))
      ->type_name("MS")
      ->capture_default_str();
  command->callback([o, &run] { run = [o] { return run_status(*o); }; });
}

void add_audit_command(CLI::App& program, std::function<int()>& run) {
  const auto o = std::make_shared<observe_options>();
  auto* command = add_observer(
      program, "audit",
      "Compare every receiver's bytes with the trainer's snapshot now, tensor by tensor", o,
      60'000);
  command->callback([o, &run] { run = [o] { return run_audit(*o); }; });
}

}  // namespace lockstep
