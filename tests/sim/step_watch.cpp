#include "tests/sim/step_watch.hpp"

#include <algorithm>
#include <utility>

#include "sim/mailbox.hpp"

namespace lockstep {

namespace {

using sim::each_waiting;
using sim::scheduled;
using sim::scheduled_of;
using word = sim::sender_step::word;

template <class T>
bool take(const caf::message& m, std::optional<wire_message>& into) {
  if (!m.match_elements<T>()) return false;
  into = m.get_as<T>(0);
  return true;
}

/// A message that the model knows nothing of: it must change nothing.
const wire_message nothing = pong_msg{};

/// False: not a message that a machine sees.
bool to_wire(const caf::message& m, std::optional<wire_message>& into) {
  if (m.match_elements<tick>()) return true;
  if (m.match_elements<welcome>()) {
    into = nothing;
    return true;
  }
  return take<attach_msg>(m, into) || take<prepare_msg>(m, into) || take<redo_msg>(m, into) ||
         take<full_begin_msg>(m, into) || take<bucket_msg>(m, into) || take<commit_msg>(m, into) ||
         take<abort_msg>(m, into) || take<ping_msg>(m, into);
}

bool to_event(const caf::message& m, sim::sender_step& step) {
  using e = sim::sender_event;
  const auto is = [&](auto type, e event) {
    if (!m.match_elements<decltype(type)>()) return false;
    step.event = event;
    return true;
  };
  if (m.match_elements<round_result>()) step.result = m.get_as<round_result>(0);
  // A stream that has run dry is as little to the model as the wish to sync.
  return is(sync_request{}, e::sync) || is(drained_notice{}, e::sync) ||
         is(encode_result{}, e::encoded) || is(stage_result{}, e::encoded) ||
         is(carve_result{}, e::encoded) || is(prove_result{}, e::proof) ||
         is(full_result{}, e::full_encoded) || is(advance_result{}, e::advanced) ||
         is(round_result{}, e::round) || is(admit_request{}, e::membership) ||
         is(down_notice{}, e::membership) || is(gave_up_notice{}, e::membership) ||
         is(tick{}, e::tick);
}

/// What waits at a receiver and its flusher from the sender.
std::vector<word> waiting_at(const participant& who, const sender_state::route& route) {
  std::vector<word> out;
  const auto note = [&](const envelope& env, word::kind what) {
    if (env.inc == who.inc) out.push_back({who, what});
  };
  auto* receiver = scheduled_of(route.receiver);
  each_waiting<attach_msg>(receiver, [&](const auto& m) { note(m.env, word::attach); });
  each_waiting<commit_msg>(receiver, [&](const auto& m) { note(m.env, word::commit); });
  each_waiting<abort_msg>(receiver, [&](const auto& m) { note(m.env, word::abort); });
  each_waiting<ship_request>(scheduled_of(route.flusher), [&](const auto& m) {
    const word::kind kinds[] = {word::prepare, word::redo, word::full};
    // Parts are shipped for another rank, whose announcement they belong to.
    if (std::holds_alternative<part_head>(m.head)) return;
    std::visit(
        [&](const auto& head) { note(head.env, kinds[std::min<std::size_t>(m.head.index(), 2)]); },
        m.head);
  });
  return out;
}

}  // namespace

void step_watch::before(caf::scheduled_actor& self) {
  receiver_.reset();
  sender_.reset();
  const auto* element = self.mailbox().peek();
  if (element == nullptr) return;
  const auto message = element->copy_content_to_message();
  kept_ = caf::actor_cast<caf::strong_actor_ptr>(&self);
  if (auto* r = dynamic_cast<receiver_actor::stateful_pointer<receiver_state>>(&self)) {
    receiver_half half{r, {}, caf::actor_cast<caf::strong_actor_ptr>(r->state.join), 0, {}};
    if (!to_wire(message, half.step.event)) return;
    if (r->state.machine) half.before = r->state.machine->summarize();
    each_waiting<reply_msg>(scheduled(half.join), [&](const auto&) { ++half.answers; });
    receiver_ = std::move(half);
  } else if (auto* s = dynamic_cast<sender_actor::stateful_pointer<sender_state>>(&self)) {
    sender_half half{s, {}, {}, {}};
    if (!to_event(message, half.step)) return;
    if (s->state.machine) half.before = s->state.machine->summarize();
    for (const auto& [who, route] : s->state.routes) half.waiting[who] = waiting_at(who, route);
    sender_ = std::move(half);
  }
}

void step_watch::after() {
  const auto kept = std::exchange(kept_, nullptr);
  // The last step of a life that ended in it is a crash, which may come at any moment.
  if (!kept || kept->get()->getf(caf::abstract_actor::is_terminated_flag)) return;
  if (receiver_) finish(*receiver_);
  if (sender_) finish(*sender_);
}

void step_watch::judge(const std::optional<std::string>& why) {
  ++steps_;
  if (why) ++wrong_[*why];
}

bool step_watch::planned(fault_kind kind, const receiver_state& state) const {
  return std::any_of(planned_.begin(), planned_.end(), [&](const fault& f) {
    return f.kind == kind && f.label == state.announced.label && f.receiver == state.bytes->id();
  });
}

void step_watch::finish(receiver_half& half) {
  const auto& state = half.actor->state;
  auto& step = half.step;
  step.after = state.machine->summarize();
  if (!half.before) {
    half.before = receiver_fsm(state.machine->self(), state.env->options).summarize();
    judge(sim::check_start(*half.before));
  }
  step.before = *half.before;
  std::size_t n = 0;
  auto* join = scheduled(half.join);
  each_waiting<reply_msg>(join, [&](const reply_msg& m) {
    if (n++ >= half.answers) step.replies.push_back(m);
  });
  step.mute = join == nullptr || planned(fault_kind::no_reply, state);
  if (step.after.phase == receiver_phase::applying && planned(fault_kind::false_ok, state) &&
      step.replies.size() == 1 && step.replies[0].kind == reply_kind::ack) {
    step.replies.clear();  // the executor's lie: its machine still waits to hear of the write
    step.mute = true;
  }
  judge(sim::check(step, &seen_));
}

void step_watch::finish(sender_half& half) {
  const auto& state = half.actor->state;
  auto& step = half.step;
  step.after = state.machine->summarize();
  if (!half.before) {
    const auto& setup = state.setup;
    half.before = sync_fsm(setup.env->cluster, setup.run, setup.held.state, setup.held.label,
                           setup.store->shape().total_bytes(), setup.env->options)
                      .summarize();
    judge(sim::check_start(*half.before));
  }
  step.before = *half.before;
  for (const auto& [who, waited] : half.waiting) {
    const auto route = state.routes.find(who);
    if (route == state.routes.end()) continue;
    auto now = waiting_at(who, route->second);
    for (const auto& w : waited) {
      const auto it =
          std::find_if(now.begin(), now.end(), [&](const word& x) { return x.what == w.what; });
      if (it != now.end()) now.erase(it);
    }
    step.sent.insert(step.sent.end(), now.begin(), now.end());
  }
  judge(sim::check(step, &seen_));
}

}  // namespace lockstep
