#include "sim/validator.hpp"

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

}  // namespace

void validator::before(caf::scheduled_actor& actor, caf::mailbox_element* message) {
  receiver_.reset();
  sender_.reset();
  lied_ = false;
  const auto* content = message ? &message->content() : nullptr;
  if (std::string_view(actor.name()) == "relay") return;  // decides nothing that the model knows
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
  } else if (auto* t = fleet_.trainer_of(actor); t && std::string_view(actor.name()) == "sender") {
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
  }
}

void validator::on_sent(endpoint from, endpoint to, const wire_message& m) {
  if (from != where_) return;
  if (receiver_) {
    if (const auto* reply = std::get_if<reply_msg>(&m)) receiver_->replies.push_back(*reply);
  } else if (sender_ && to < fleet_.receivers().size()) {
    using word = sender_step::word;
    const auto say = [&](const envelope& env, word::kind what) {
      sender_->sent.push_back({{fleet_.receivers()[to].id, env.inc}, what});
    };
    if (const auto* a = std::get_if<attach_msg>(&m)) say(a->env, word::attach);
    if (const auto* c = std::get_if<commit_msg>(&m)) say(c->env, word::commit);
    if (const auto* b = std::get_if<abort_msg>(&m)) say(b->env, word::abort);
  }
}

void validator::after(caf::scheduled_actor& actor) {
  // The last step of a life that ended in it is a crash, which may come at any moment.
  if (actor.getf(caf::abstract_actor::is_terminated_flag)) return;
  if (receiver_) {
    if (auto* r = fleet_.receiver_of(actor)) finish(*r);
  } else if (sender_) {
    if (auto* t = fleet_.trainer_of(actor)) finish(*t);
  }
}

void validator::judge(std::string_view what, const std::optional<std::string>& why) {
  ++steps_;
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
  judge("model: a receiver's step: ", check(step, &seen_));
}

void validator::finish(trainer_process& t) {
  const auto* s = fleet_.actors_of(t).sender;
  if (!s) return;
  auto& step = *sender_;
  step.after = s->machine->summarize();
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
  judge("model: a sender's step: ", check(step, &seen_));
}

}  // namespace lockstep::sim
