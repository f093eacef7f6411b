// What joins, snapshots and flushers do in a step: to the model they are the sender.
#include "sim/validator.hpp"

namespace lockstep::sim {

namespace {

template <class Actor, class State>
const State& state_in(caf::scheduled_actor& actor) {
  return static_cast<typename Actor::template stateful_pointer<State>>(&actor)->state;
}

snapshot_step::standing standing_of(const snapshot_state& s) {
  return {s.machine->held(), s.machine->staged()};
}

std::pair<std::size_t, envelope> announcement_of(const decltype(ship_request::head)& head) {
  return {head.index(), std::visit([](const auto& x) { return x.env; }, head)};
}

}  // namespace

void validator::before_join(caf::scheduled_actor& actor, const caf::mailbox_element& message) {
  // What a process starts while it is ending is nobody's, and nothing ends it.
  const auto* t = fleet_.trainer_of(actor);
  if (t == nullptr) return;
  const auto& m = message.content();
  auto& step = join_.emplace(join_half{});
  auto& told = joins_[actor.id()];
  step.told = &told;
  const bool opens = m.match_elements<round_spec>();
  if (opens) told.on_open(m.get_as<round_spec>(0));
  if (m.match_elements<reply_msg>()) told.on_reply(m.get_as<reply_msg>(0));
  if (m.match_elements<down_notice>()) told.on_down(m.get_as<down_notice>(0).who);
  if (m.match_elements<tick>()) told.on_tick();
  const auto& state = state_in<join_actor, join_state>(actor);
  step.results.emplace(actor,
                       opens ? scheduled(message.sender) : started<sender_state>(state.opener));
  if (m.match_elements<conclude_request>()) {
    const auto& x = m.get_as<conclude_request>(0);
    step.asked = {x.txn, x.view};
  }
  const auto* s = fleet_.actors_of(*t).supervisor;
  if (s && s->trainer && s->trainer->join.id() == actor.id())
    step.verdicts.emplace(actor, started<snapshot_state>(s->trainer->snapshot));
}

void validator::finish_join() {
  auto& step = *join_;
  std::vector<round_result> said;
  if (!step.results->each_new([&](const round_result& r) { said.push_back(r); }))
    step.told->lose_sight();
  const auto judge_word = [&](const round_result* r) {
    judge("model: a join's step: ", step.told->check(r));
  };
  if (said.empty()) judge_word(nullptr);
  for (const auto& r : said) judge_word(&r);
  if (!step.verdicts) return;
  std::vector<join_relation::verdict> verdicts;
  const auto note = [&](const join_verdict& v) { verdicts.push_back({v.txn, v.all_ok}); };
  if (!step.verdicts->each_new(note)) return;
  judge("model: a join's word: ", step.told->check_verdicts(step.asked, verdicts));
}

void validator::before_snapshot(caf::scheduled_actor& actor, const caf::mailbox_element& message) {
  const auto& state = state_in<snapshot_actor, snapshot_state>(actor);
  if (!state.machine) return;
  const auto& m = message.content();
  snapshot_step step;
  step.before = standing_of(state);
  bool asks = false;
  if (m.match_elements<stage_request>()) {
    const auto& x = m.get_as<stage_request>(0);
    step.event = snapshot_step::stage;
    step.txn = x.txn;
    step.base = x.base;
    step.target = x.target;
    asks = true;
  } else if (m.match_elements<join_verdict>()) {
    const auto& x = m.get_as<join_verdict>(0);
    step.event = snapshot_step::verdict;
    step.txn = x.txn;
    step.all_ok = x.all_ok;
  } else if (m.match_elements<drop_request>()) {
    step.event = snapshot_step::drop;
    step.txn = m.get_as<drop_request>(0).txn;
  }
  // Of a rank that does not lead it is no sender.
  auto* const who = asks ? scheduled(message.sender) : scheduled_of(state.owner);
  snapshot_.emplace(snapshot_half{std::move(step), {actor, who}, {actor, who}});
}

void validator::finish_snapshot(caf::scheduled_actor& actor) {
  auto& [step, staged, advanced] = *snapshot_;
  step.after = standing_of(state_in<snapshot_actor, snapshot_state>(actor));
  const auto note = [&step = step](snapshot_step::what to) {
    return [&step, to](const auto& answer) {
      step.said.push_back({to, answer.txn, answer.reason == errc::none});
    };
  };
  step.heard = staged.each_new(note(snapshot_step::stage)) &&
               advanced.each_new(note(snapshot_step::verdict));
  auto why = check(step);
  if (!why && step.after.held != step.before.held) why = check_advance(actor);
  judge("model: a snapshot's step: ", why);
}

/// The snapshot of a trainer's first process goes where its sender has decided to, and no sooner.
std::optional<std::string> validator::check_advance(const caf::scheduled_actor& actor) {
  const auto* t = fleet_.trainer_of(actor);
  if (t == nullptr) return std::nullopt;
  const auto actors = fleet_.actors_of(*t);
  // One of a run that has ended advances for nobody.
  const bool leads = actors.supervisor && actors.supervisor->trainer &&
                     actors.supervisor->trainer->snapshot.id() == actor.id();
  if (!leads || actors.sender == nullptr) return std::nullopt;
  const auto decided = actors.sender->machine->summarize();
  const auto& held = snapshot_->step.after.held;
  if (decided.phase == sync_phase::advancing && decided.target.version == held.version)
    return std::nullopt;
  return "snapshot, " + to_string(held.version) + ": its sender has not decided so";
}

void validator::before_flusher(caf::scheduled_actor& actor, const caf::type_erased_tuple& m) {
  const auto where = fleet_.where_trains(actor);
  if (!where) return;
  where_ = *where;
  auto& step = flusher_.emplace();
  if (m.match_elements<ship_request>())
    step.told.push_back(announcement_of(m.get_as<ship_request>(0).head));
}

void validator::note_announced(const caf::type_erased_tuple& m) {
  const auto say = [&](const auto& head) { flusher_->said.push_back(announcement_of(head)); };
  if (m.match_elements<prepare_msg>()) say(m.get_as<prepare_msg>(0));
  if (m.match_elements<redo_msg>()) say(m.get_as<redo_msg>(0));
  if (m.match_elements<full_begin_msg>()) say(m.get_as<full_begin_msg>(0));
  if (m.match_elements<part_head>()) say(m.get_as<part_head>(0));
}

void validator::finish_flusher() {
  const auto& [told, said] = *flusher_;
  std::optional<std::string> why;
  if (said != told) {
    why = std::string(said.empty() ? "it does not announce" : "it announces something else than") +
          " what it was told to ship";
  }
  judge("model: a flusher's step: ", why);
}

}  // namespace lockstep::sim
