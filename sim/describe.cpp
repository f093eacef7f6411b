// What messages look like in a trace.
#include <fmt/format.h>

#include "actors/packed.hpp"
#include "actors/rank.hpp"
#include "sim/network.hpp"

namespace lockstep::sim {

namespace {

std::string content_of(const manifest& m) {
  return fmt::format("{} changed in {} buckets", m.changed, m.buckets.size());
}

struct describer {
  std::string operator()(const hello_msg& m) const { return "hello " + life(m.inc); }
  std::string operator()(const ping_msg& m) const { return "ping " + to_string(m.current); }
  std::string operator()(const pong_msg& m) const {
    return fmt::format("pong {} {}{}", to_string(m.state.phase), to_string(m.state.version),
                       m.state.ready ? " ready" : "");
  }
  std::string operator()(const goodbye_msg& m) const { return "goodbye " + life(m.inc); }
  std::string operator()(const attach_msg& m) const {
    return fmt::format("attach {} to {}", to_string(m.env.txn), to_string(m.target.version));
  }
  std::string operator()(const full_begin_msg& m) const {
    return fmt::format("{} {} to {}, {}", m.catch_up ? "catch-up" : "full", to_string(m.env.txn),
                       to_string(m.target.version), content_of(m.content));
  }
  std::string operator()(const prepare_msg& m) const {
    return fmt::format("prepare {} from {}, {}", to_string(m.env.txn), to_string(m.base),
                       content_of(m.content));
  }
  std::string operator()(const bucket_msg& m) const {
    return fmt::format("bucket {} of {}", m.index, to_string(m.env.txn));
  }
  std::string operator()(const commit_msg& m) const {
    return fmt::format("commit {} round {}", to_string(m.env.txn), m.round);
  }
  std::string operator()(const abort_msg& m) const { return "abort " + to_string(m.env.txn); }
  std::string operator()(const redo_msg& m) const {
    return fmt::format("redo {} round {}", to_string(m.env.txn), m.round);
  }
  std::string operator()(const reply_msg& m) const {
    auto out = fmt::format("{} {} round {}", to_string(m.kind), to_string(m.env.txn), m.round);
    if (m.reason != errc::none) out += fmt::format(" ({})", to_string(m.reason));
    return out;
  }
  std::string operator()(const credit_msg& m) const {
    return fmt::format("credit {} of {}", m.index, to_string(m.env.txn));
  }
  std::string operator()(const relay_offer_msg& m) const { return "passes on, " + life(m.inc); }
  std::string operator()(const relay_parent_msg& m) const {
    if (m.host.empty()) return fmt::format("stripe {} of {} from the trainer", m.stripe, m.stripes);
    return fmt::format("stripe {} of {} from receiver-{}", m.stripe, m.stripes, m.parent);
  }
  std::string operator()(const relay_link_msg& m) const {
    if (m.up) return fmt::format("has stripe {}", m.stripe);
    return fmt::format("has no stripe {} ({})", m.stripe, to_string(m.reason));
  }
  std::string operator()(const relay_ask_msg& m) const {
    return fmt::format("wants stripe {} of {}", m.stripe, m.stripes);
  }
  std::string operator()(const relay_lend_msg& m) const {
    return fmt::format("lend {} to receiver-{} for {}", to_string(m.version), m.child,
                       to_string(m.txn));
  }
  std::string operator()(const shard_hello_msg& m) const {
    return fmt::format("hello of rank {}, {}", m.rank, life(m.inc));
  }
  std::string operator()(const shard_task_msg& m) const {
    auto out = fmt::format("{} {}", to_string(m.what), to_string(m.txn));
    if (m.what == shard_task::seed || m.what == shard_task::encode)
      out += fmt::format(", label {}", m.label);
    if (m.part != 0) out += fmt::format(", part {}", m.part);
    return out;
  }
  std::string operator()(const shard_result_msg& m) const {
    auto out = fmt::format("{} {} is done", to_string(m.what), to_string(m.txn));
    if (m.part != 0) out += fmt::format(", part {}", m.part);
    if (m.reason != errc::none) out += fmt::format(" ({})", to_string(m.reason));
    return out;
  }
  std::string operator()(const shard_ship_msg& m) const {
    return fmt::format("ship {}{} to receiver-{} from bucket {}", m.full ? "full " : "",
                       to_string(m.txn), m.id, m.first);
  }
  std::string operator()(const shard_reach_msg& m) const {
    return fmt::format("{} receiver-{} {}", m.linked ? "reaches" : "does not reach", m.id,
                       life(m.inc));
  }
  std::string operator()(const shard_route_msg& m) const {
    auto out = fmt::format("receiver-{} has", m.id);
    const auto route = unpacked_route(m.from);
    if (!route) return out + " a route that is none";
    if (route->empty()) return out + " everything from the trainer";
    for (std::size_t i = 0; i < route->size(); ++i) {
      const auto& from = (*route)[i].parent;
      out += fmt::format("{} stripe {} from {}", i == 0 ? "" : ",", i,
                         from ? "receiver-" + std::to_string(*from) : "the trainer");
    }
    return out;
  }
  std::string operator()(const shard_among_msg& m) const {
    auto out = fmt::format("{} round {} goes to receivers", to_string(m.txn), m.round);
    const auto ids = unpacked_ids(m.ids);
    if (!ids) return out + " that are none";
    for (const auto id : *ids) out += fmt::format(" {}", id);
    return out;
  }
  std::string operator()(const shard_stalled_msg& m) const {
    return fmt::format("receiver-{} waits for receiver-{}", m.child, m.parent);
  }
  /// What simulated processes do not say.
  std::string operator()(const auto& m) const { return std::string(name_of(wire_message(m))); }

 private:
  /// The end of an incarnation: enough to tell lives of one run apart.
  static std::string life(const incarnation& inc) { return fmt::format("{:04x}", inc.lo & 0xffff); }
};

template <class T>
bool name_if(const caf::type_erased_tuple& content, std::string_view name, std::string& out) {
  if (!content.match_elements<T>()) return false;
  out = name;
  return true;
}

}  // namespace

std::string describe(const wire_message& m) {
  return std::visit(describer(), m);
}

std::string describe(const caf::type_erased_tuple& content) {
  if (const auto m = wire_of(content)) return describe(*m);
  std::string out;
  if (content.match_elements<round_spec>()) {
    const auto& r = content.get_as<round_spec>(0);
    return fmt::format("open round {} of {} for {}", r.number, to_string(r.txn), r.who.size());
  }
  if (content.match_elements<round_hurry>()) {
    const auto& r = content.get_as<round_hurry>(0);
    return fmt::format("hurry round {} of {}", r.number, to_string(r.txn));
  }
  if (content.match_elements<round_result>()) {
    const auto& r = content.get_as<round_result>(0);
    return fmt::format("round {} of {} is over", r.number, to_string(r.txn));
  }
  const bool known =
      name_if<tick>(content, "tick", out) || name_if<sync_request>(content, "sync", out) ||
      name_if<hurry_request>(content, "hurry", out) ||
      name_if<encode_result>(content, "encoded", out) ||
      name_if<stage_request>(content, "stage", out) ||
      name_if<stage_result>(content, "staged", out) ||
      name_if<part_head>(content, "buckets of a part follow", out) ||
      name_if<carve_request>(content, "take a part", out) ||
      name_if<carve_result>(content, "part taken", out) ||
      name_if<prove_request>(content, "prove", out) ||
      name_if<prove_result>(content, "proof", out) ||
      name_if<full_request>(content, "plan a full", out) ||
      name_if<full_result>(content, "full planned", out) ||
      name_if<conclude_request>(content, "conclude", out) ||
      name_if<join_verdict>(content, "verdict", out) ||
      name_if<advance_result>(content, "advanced", out) ||
      name_if<drop_request>(content, "drop", out) || name_if<down_notice>(content, "down", out) ||
      name_if<gave_up_notice>(content, "gave up", out) ||
      name_if<newer_run_notice>(content, "newer run", out) ||
      name_if<fleet_notice>(content, "fleet", out) || name_if<boot_request>(content, "boot", out) ||
      name_if<end_request>(content, "end", out) || name_if<welcome>(content, "welcome", out) ||
      name_if<relay_begin>(content, "others bring of this", out) ||
      name_if<relay_kept>(content, "taken", out) || name_if<relay_over>(content, "over", out) ||
      name_if<relay_lent>(content, "lent", out) || name_if<relay_cut>(content, "cut", out) ||
      name_if<relay_made>(content, "cut out", out) || name_if<relay_order>(content, "order", out) ||
      name_if<relay_dialed>(content, "dialed", out) ||
      name_if<rank_dialed>(content, "dialed", out) || name_if<relay_route>(content, "route", out) ||
      name_if<relay_stalled>(content, "stalled", out) ||
      name_if<ship_request>(content, "ship", out) || name_if<stop_request>(content, "stop", out) ||
      name_if<drained_notice>(content, "drained", out) ||
      name_if<admit_request>(content, "admit", out) ||
      name_if<sync_action::evicted>(content, "evicted", out) ||
      name_if<sync_action::admitted>(content, "admitted", out) ||
      name_if<sync_action::not_admitted>(content, "not admitted", out) ||
      name_if<caf::down_msg>(content, "an actor is down", out) ||
      name_if<caf::exit_msg>(content, "exit", out);
  return known ? out : "another message";
}

}  // namespace lockstep::sim
