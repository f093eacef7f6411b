#include "sim/validator.hpp"

#include <algorithm>

namespace lockstep::sim {

namespace {

/// What another rank has answered.
std::optional<sender_event> event_of(shard_task what) {
  using e = sender_event;
  switch (what) {
    case shard_task::encode:
    case shard_task::stage:
    case shard_task::carve:
      return e::encoded;
    case shard_task::prove:
      return e::proof;
    case shard_task::plan:
      return e::full_encoded;
    case shard_task::advance:
      return e::advanced;
    default:
      return std::nullopt;
  }
}

/// What a sender handles, as the model names it; nothing for what is no word to its machine.
std::optional<sender_event> event_of(const caf::type_erased_tuple& m) {
  using e = sender_event;
  if (m.match_elements<round_result>()) return e::round;
  // A stream that has run dry is as little to the model as the wish to sync.
  if (m.match_elements<sync_request>() || m.match_elements<drained_notice>()) return e::sync;
  if (m.match_elements<encode_result>() || m.match_elements<stage_result>() ||
      m.match_elements<carve_result>())
    return e::encoded;
  if (m.match_elements<prove_result>()) return e::proof;
  if (m.match_elements<full_result>()) return e::full_encoded;
  if (m.match_elements<advance_result>()) return e::advanced;
  if (m.match_elements<newer_run_notice>()) return e::newer_run;
  if (m.match_elements<tick>()) return e::tick;
  if (m.match_elements<shard_result_msg>()) return event_of(m.get_as<shard_result_msg>(0).what);
  // Who is reported on when, and nothing else.
  if (m.match_elements<hurry_request>()) return e::membership;
  if (m.match_elements<admit_request>() || m.match_elements<down_notice>() ||
      m.match_elements<gave_up_notice>())
    return e::membership;
  return std::nullopt;
}

using word = sender_step::word;

/// What a flusher is asked to announce, and in which transaction.
std::optional<std::pair<word::kind, envelope>> announced(const ship_request& m) {
  using found = std::pair<word::kind, envelope>;
  if (const auto* p = std::get_if<prepare_msg>(&m.head)) return found{word::prepare, p->env};
  if (const auto* r = std::get_if<redo_msg>(&m.head)) return found{word::redo, r->env};
  if (const auto* f = std::get_if<full_begin_msg>(&m.head)) return found{word::full, f->env};
  return std::nullopt;  // another rank has said it
}

}  // namespace

void validator::before(caf::scheduled_actor& actor, caf::mailbox_element* message) {
  receiver_.reset();
  sender_.reset();
  join_.reset();
  snapshot_.reset();
  flusher_.reset();
  lied_ = false;
  const auto* content = message ? &message->content() : nullptr;
  const std::string_view name = actor.name();
  if (name == "relay") return;  // decides nothing that the model knows
  if (message && name == "join") return before_join(actor, *message);
  if (message && name == "snapshot") return before_snapshot(actor, *message);
  if (message && name == "flusher") return before_flusher(actor, *content);
  if (auto* r = fleet_.receiver_of(actor)) {
    const auto* s = fleet_.state_of_receiver(*r);
    auto event = content ? wire_of(*content) : std::nullopt;
    // A beginning and a welcome are nothing to the model: like a word that no receiver is told.
    const bool idle = content ? content->match_elements<welcome>() : s == nullptr;
    const bool ticks = content && content->match_elements<tick>();
    if (!event && !idle && !ticks) return;
    receiver_.emplace();
    where_ = r->where;
    born_ = s == nullptr;
    if (s) receiver_->before = s->machine->summarize();
    receiver_->event = idle ? std::optional<wire_message>(pong_msg{}) : std::move(event);
  } else if (auto* t = fleet_.trainer_of(actor); t && name == "sender") {
    const auto* s = fleet_.actors_of(*t).sender;
    const auto event = content        ? event_of(*content)
                       : s == nullptr ? std::optional(sender_event::membership)
                                      : std::nullopt;
    if (!event) return;
    // One of a run that was ended while it still had to begin.
    if (s && t->up && !fleet_.is_current_sender(*t, actor)) return;
    sender_.emplace();
    where_ = t->where;
    born_ = s == nullptr;
    if (s) sender_->before = s->machine->summarize();
    sender_->event = *event;
    if (*event == sender_event::round) sender_->result = content->get_as<round_result>(0);
    shipped_.clear();
    if (!s) return;
    for (const auto& [who, route] : s->routes)
      shipped_.emplace_back(who,
                            waiting_at<ship_request>(actor, started<flusher_state>(route.flusher)));
  }
}

void validator::on_said(endpoint from, const address& to, const caf::type_erased_tuple& m) {
  if (from != where_) return;
  if (receiver_) {
    if (m.match_elements<reply_msg>()) receiver_->replies.push_back(m.get_as<reply_msg>(0));
  } else if (flusher_ && to.what == role::receiver) {
    note_announced(m);
  } else if (sender_ && to.what == role::receiver) {
    const auto say = [&](const envelope& env, word::kind what) {
      sender_->sent.push_back({{fleet_.receivers()[to.where].id, env.inc}, what, env.txn});
    };
    if (m.match_elements<attach_msg>()) say(m.get_as<attach_msg>(0).env, word::attach);
    if (m.match_elements<commit_msg>()) say(m.get_as<commit_msg>(0).env, word::commit);
    if (m.match_elements<abort_msg>()) say(m.get_as<abort_msg>(0).env, word::abort);
  }
}

/// What the sender has asked its flushers for in this step, and to whom it has no way.
void validator::note_shipped(const sender_state& s) {
  auto& step = *sender_;
  for (const auto& [who, flusher] : shipped_)
    flusher.each_new([&, id = who.id](const ship_request& m) {
      if (const auto what = announced(m))
        step.sent.push_back({{id, what->second.inc}, what->first, what->second.txn});
    });
  for (const auto& [who, route] : s.routes)
    if (!started<flusher_state>(route.flusher)) step.unshipped.push_back(who);
  // There is a way to one life of a receiver at a time.
  for (const auto* some : {&step.before.view, &step.before.members})
    for (const auto& who : *some)
      if (!s.routes.contains(who) &&
          std::ranges::any_of(s.routes, [&](const auto& r) { return r.first.id == who.id; }))
        step.unreached.push_back(who);
  step.all_sent = true;
}

void validator::after(caf::scheduled_actor& actor) {
  // The last step of a life that ended in it is a crash, which may come at any moment.
  if (has_ended(actor)) return;
  if (join_) return finish_join();
  if (snapshot_) return finish_snapshot(actor);
  if (flusher_) return finish_flusher();
  if (receiver_) {
    if (auto* r = fleet_.receiver_of(actor)) finish(*r);
  } else if (sender_) {
    if (auto* t = fleet_.trainer_of(actor)) finish(*t);
  }
}

void validator::judge(std::string_view what, const std::optional<std::string>& why) {
  if (why && violation_.empty()) violation_ = std::string(what) + *why;
}

void validator::finish(receiver_process& r) {
  const auto* s = fleet_.state_of_receiver(r);
  if (!s) return;
  auto& step = *receiver_;
  step.after = s->machine->summarize();
  if (born_) {
    step.before = receiver_fsm(s->machine->self(), fleet_.options()).summarize();
    judge("model: a life's beginning: ", check_start(step.before));
  }
  // Without a join to answer to, answers are not said.
  step.mute = !s->join;
  if (lied_) {
    step.replies.clear();  // the executor's lie: its machine still waits to hear of the write
    step.mute = true;
  }
  judge("model: a receiver's step: ", check(step));
}

void validator::finish(trainer_process& t) {
  const auto* s = fleet_.actors_of(t).sender;
  if (!s) return;
  auto& step = *sender_;
  step.after = s->machine->summarize();
  note_shipped(*s);
  // Where one rank of several has advanced, the others are waited for: nothing to the model.
  if (!s->setup.ranks.empty() && step.event == sender_event::advanced &&
      step.after.phase == sync_phase::advancing)
    step.event = sender_event::sync;
  if (born_) {
    const auto& setup = s->setup;
    step.before = sync_fsm(setup.env->cluster, setup.run, setup.held.state, setup.held.label,
                           setup.store->shape().total_bytes(), setup.env->options)
                      .summarize();
    judge("model: a run's beginning: ", check_start(step.before));
  }
  judge("model: a sender's step: ", check(step));
}

}  // namespace lockstep::sim
