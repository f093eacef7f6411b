#include "apps/replay_output.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "apps/json_line.hpp"
#include "apps/standard_output.hpp"
#include "messages/printable.hpp"

namespace lockstep {

namespace {

using json = nlohmann::ordered_json;

double percent(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0.0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

void print(const json& line) {
  print_out(json_line(line));
}

const participant_report* find(const sync_report& r, receiver_id id) {
  for (const auto& p : r.participants)
    if (p.id == id) return &p;
  return nullptr;
}

/// `held`: what those who took part and are members have proved. What they said last may be older.
json to_json(const receiver_status& s, const participant_report* p, std::uint64_t held) {
  const bool proved = s.member && p && p->member;
  return {{"id", s.id},
          {"name", s.name},
          {"state", to_string(proved ? receiver_phase::serving : s.state.phase)},
          {"ready", s.state.ready},
          {"version", proved ? held : s.state.label},
          {"standing", s.standing},
          {"status", p ? to_string(p->status) : "absent"},
          {"reason", to_string(p ? p->reason : s.reason)},
          {"detail", p ? p->detail : s.detail},
          {"redos", p ? p->redos : 0},
          {"reseeds", p ? p->reseeds : 0},
          {"catch_ups", p ? p->catch_ups : 0}};
}

/// What a person wants to know of a sync that was not simply ok.
std::string remarks(const sync_report& r, const std::vector<receiver_status>& states) {
  std::string out(to_string(r.result));
  if (r.result == sync_result::aborted) {
    out += fmt::format(": {}", to_string(r.reason));
    if (!r.detail.empty()) out += fmt::format(" ({})", r.detail);
  }
  for (const auto& p : r.participants) {
    if (p.status == terminal::ok && p.member) continue;
    if (p.status == terminal::aborted) continue;
    out += fmt::format("; {} {}", p.name, to_string(p.reason));
    if (p.reseeds > 0) {
      out += p.reseeds == 1 ? ", reseeded" : fmt::format(", reseeded {} times", p.reseeds);
    } else if (p.catch_ups > 0) {
      out += ", caught up";
    } else {
      out += p.member ? ", readmitted" : ", OUT";
    }
  }
  for (const auto& s : states)
    if (!s.member && !find(r, s.id)) out += fmt::format("; {} OUT", s.name);
  return out;
}

}  // namespace

void replay_summary::add(const sync_report& r) {
  ++attempts;
  sent_bytes += r.sent_bytes;
  reseed_bytes += r.reseed_bytes;
  catch_up_bytes += r.catch_up_bytes;
  for (const auto& p : r.participants) {
    reseeds += p.reseeds;
    catch_ups += p.catch_ups;
  }
  if (r.result == sync_result::aborted) return;
  ++syncs;
  wire_bytes += r.wire_bytes;
  full_bytes += r.full_bytes;
}

bool replay_summary::pass() const {
  return !receivers.empty() &&
         std::all_of(receivers.begin(), receivers.end(), [](const auto& r) { return r.pass; });
}

std::string human_bytes(std::uint64_t bytes) {
  constexpr std::array units{"B", "kB", "MB", "GB", "TB", "PB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 999.5 && unit + 1 < units.size()) {
    value /= 1000;
    ++unit;
  }
  if (unit == 0) return fmt::format("{} B", bytes);
  return fmt::format("{:.{}f} {}", value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0, units[unit]);
}

std::string human_seconds(double seconds) {
  if (seconds < 1e-3) return fmt::format("{:.0f} us", seconds * 1e6);
  if (seconds < 1) return fmt::format("{:.1f} ms", seconds * 1e3);
  return fmt::format("{:.2f} s", seconds);
}

void replay_output::start(const std::string& what) const {
  if (json_) return;
  print_out(fmt::format("{}\n{:>7} {:>8} {:>9} {:>9} {:>11} {:>9} {:>9} {:>9}  {}\n", what,
                        "version", "changed", "full", "wire", "diff+encode", "ship", "vote",
                        "commit", "result"));
}

void replay_output::sync(const sync_report& r, std::uint64_t base,
                         const std::vector<receiver_status>& states) const {
  if (!json_) {
    print_out(fmt::format("{:>7} {:>7.2f}% {:>9} {:>9} {:>11} {:>9} {:>9} {:>9}  {}\n", r.label,
                          percent(r.changed, r.elements), human_bytes(r.full_bytes),
                          human_bytes(r.wire_bytes), human_seconds(r.encode.count()),
                          human_seconds(r.ship.count()), human_seconds(r.vote.count()),
                          human_seconds(r.commit.count()), remarks(r, states)));
    return;
  }
  json receivers = json::array();
  const auto held = r.result == sync_result::aborted ? base : r.label;
  for (const auto& s : states) receivers.push_back(to_json(s, find(r, s.id), held));
  print({{"kind", "sync"},
         {"version", r.label},
         {"base", base},
         {"result", to_string(r.result)},
         {"reason", to_string(r.reason)},
         {"detail", r.detail},
         {"base_ref", to_string(r.base)},
         {"target_ref", to_string(r.target)},
         {"elements", r.elements},
         {"changed", r.changed},
         {"changed_percent", percent(r.changed, r.elements)},
         {"full_bytes", r.full_bytes},
         {"wire_bytes", r.wire_bytes},
         {"sent_bytes", r.sent_bytes},
         {"reseed_bytes", r.reseed_bytes},
         {"catch_up_bytes", r.catch_up_bytes},
         {"seconds",
          {{"encode", r.encode.count()},
           {"ship", r.ship.count()},
           {"vote", r.vote.count()},
           {"commit", r.commit.count()},
           {"recover", r.recover.count()},
           {"total", r.total.count()}}},
         {"receivers", std::move(receivers)}});
}

void replay_output::summary(const replay_summary& s) const {
  const auto verdict = s.pass() ? "pass" : "fail";
  if (json_) {
    json receivers = json::array();
    for (const auto& r : s.receivers)
      receivers.push_back({{"id", r.id},
                           {"name", r.name},
                           {"audit", r.pass ? "pass" : "fail"},
                           {"detail", r.why_not},
                           {"reseeds", r.reseeds},
                           {"catch_ups", r.catch_ups},
                           {"restarts", r.restarts}});
    print({{"kind", "summary"},
           {"syncs", s.syncs},
           {"attempts", s.attempts},
           {"reseeds", s.reseeds},
           {"catch_ups", s.catch_ups},
           {"wire_bytes", s.wire_bytes},
           {"full_bytes", s.full_bytes},
           {"sent_bytes", s.sent_bytes},
           {"reseed_bytes", s.reseed_bytes},
           {"catch_up_bytes", s.catch_up_bytes},
           {"seconds", s.seconds},
           {"receivers", std::move(receivers)},
           {"audit", verdict}});
    return;
  }
  auto text =
      fmt::format("{} syncs in {}: {} of weights as {} on the wire", s.syncs,
                  human_seconds(s.seconds), human_bytes(s.full_bytes), human_bytes(s.wire_bytes));
  if (s.wire_bytes != 0)
    text += fmt::format(", {:.1f} x smaller",
                        static_cast<double>(s.full_bytes) / static_cast<double>(s.wire_bytes));
  text += fmt::format("; {} {}, {}", s.reseeds, s.reseeds == 1 ? "reseed" : "reseeds",
                      human_bytes(s.reseed_bytes));
  std::uint64_t ever = 0;
  for (const auto& r : s.receivers) ever += r.reseeds;
  if (ever > s.reseeds) text += fmt::format("; {} more between syncs", ever - s.reseeds);
  if (s.catch_ups != 0)
    text += fmt::format("; {} caught up, {}", s.catch_ups, human_bytes(s.catch_up_bytes));
  text += '\n';
  for (const auto& r : s.receivers)
    text += fmt::format("audit {}: {}{}{}\n", printable(r.name), r.pass ? "pass" : "FAIL",
                        r.pass ? "" : ": ", r.why_not);
  text += fmt::format("audit: {}\n", verdict);
  print_out(text);
}

}  // namespace lockstep
