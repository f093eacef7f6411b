// The supervisor's start of a run, over all ranks of the trainer.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <exception>
#include <iterator>

#include "actors/encoding.hpp"
#include "actors/supervisor_parts.hpp"

namespace lockstep::supervising {

/// Starts the trainer's side over what all ranks hold; `others`: the digests of their parts.
static void start_group(pointer self, boot_request m, digest others) {
  auto& state = self->state;
  const auto mine = m.store->read(
      [](const tensor_views& tensors) { return digest_of(public_digest_seed, tensors); });
  const target_info part{{m.run, 0}, mine, m.store->label()};
  const target_info held{part.version, mine + others, part.label};
  supervisor_state::trainer_group group;
  group.snapshot = self->spawn<caf::monitored>(snapshot_behavior, state.env, m.store, part,
                                               m.store->take_over());
  group.join = self->spawn<caf::monitored>(join_behavior, group.snapshot);
  sender_setup setup{state.env,  m.store,        m.run,
                     held,       m.shape,        {},
                     group.join, group.snapshot, supervisor_actor(self)};
  for (const auto& [rank, r] : state.ranks) setup.ranks.push_back(r.link);
  group.sender = self->spawn<caf::monitored>(sender_behavior, std::move(setup));
  state.fleet = held.version;
  const auto answer = std::exchange(m.answer, nullptr);
  group.boot = std::move(m);
  state.trainer = std::move(group);
  for (const auto& [id, c] : state.children) greet(self, c);
  perform(self, state.policy->on_new_run(self->clock().now()));
  if (answer) answer->set_value(held.version);
}

// --- the ranks of the trainer -------------------------------------------------------------------

void end_ranks(pointer self, sequel next) {
  const auto& state = self->state;
  const std::uint64_t last = next == sequel::none ? 1 : 0;
  for (const auto& [rank, r] : state.ranks)
    self->send(r.link, shard_task_msg{state.env->cluster, shard_task::end, {}, last, 0});
}

bool is_reached(const supervisor_state& state, const participant& who) {
  return std::ranges::all_of(state.ranks, [&](const auto& r) {
    const auto it = r.second.reached.find(who.id);
    return it != r.second.reached.end() && it->second == who.inc;
  });
}

void look_at_reach(pointer self, const supervisor_state::child& c) {
  auto& state = self->state;
  if (c.bytes || !c.receiver) return;
  const bool all = is_reached(state, c.life);
  const auto now = self->clock().now();
  perform(self, all ? state.policy->on_reached(now, c.life) : state.policy->on_parted(now, c.life));
  note_phase(self, c.life.id);
}

void on_reach(pointer self, const shard_reach_msg& m) {
  auto& state = self->state;
  const auto rank = state.ranks.find(m.rank);
  if (m.cluster != state.env->cluster || rank == state.ranks.end()) return;
  // Another process of that number has no say in whom this one reaches.
  if (rank->second.link != caf::actor_cast<rank_link_actor>(self->current_sender())) return;
  auto& sent = rank->second.sent;
  if (sent.contains(m.id) || sent.size() < supervision_fsm::receivers_max) sent[m.id] = m.sent;
  auto& reached = rank->second.reached;
  const auto it = reached.find(m.id);
  const bool is_there = it != reached.end() && it->second == m.inc;
  if (m.linked == is_there) return;
  if (!m.linked)
    reached.erase(it);
  else if (it != reached.end() || reached.size() < supervision_fsm::receivers_max)
    reached[m.id] = m.inc;
  if (const auto c = state.children.find(m.id); c != state.children.end())
    look_at_reach(self, c->second);
}

void refuse_boot(pointer self, errc reason, const std::string& detail) {
  auto request = std::move(self->state.waiting->request);
  self->state.waiting.reset();
  // That the trainer leaves is what it asked for.
  const auto level = reason == errc::shut_down ? spdlog::level::info : spdlog::level::err;
  self->state.env->log->log(level, "the trainer's side cannot start: {}", detail);
  end_ranks(self, sequel::another_run);
  if (request.answer) request.answer->set_exception(std::make_exception_ptr(error(reason, detail)));
}

/// It can be none of this trainer's ranks: it is told why, and waited for no longer. Its link
/// stays, and it may introduce itself anew.
static void refuse_rank(pointer self, const rank_link_actor& link, const shard_hello_msg& m,
                        errc reason, std::string why) {
  const auto& env = *self->state.env;
  env.log->error("rank {} is refused: {}", m.rank, why);
  self->send(link, refused_msg{env.cluster, m.inc, reason,
                               "rank " + std::to_string(m.rank) + ": " + std::move(why)});
}

using known_ranks = std::map<std::uint32_t, supervisor_state::other_rank>;

/// The same for one that was counted on. The next one.
static known_ranks::iterator drop_rank(pointer self, known_ranks::iterator it, errc reason,
                                       std::string why) {
  refuse_rank(self, it->second.link, it->second.hello, reason, std::move(why));
  self->demonitor(it->second.link.address());
  return self->state.ranks.erase(it);
}

/// What keeps a rank from having a part of the model beside those that own the rest so far, which
/// it is added to; empty if nothing does.
static std::string misfit_of(const shard_hello_msg& m, const layout& shape, shard_mask& owners) {
  if (m.layout != shape.fingerprint())
    return "its model is not rank 0's: other tensors, dtypes or shapes, or split into other rows";
  const auto owned = unpacked_mask(m.owned, shape.count());
  if (!owned) return "it owns tensors that there are not";
  for (std::size_t i = 0; i < owners.size(); ++i)
    if ((*owned)[i] && owners[i])
      return "it owns tensor '" + shape[i].name + "', which another rank owns too";
  for (std::size_t i = 0; i < owners.size(); ++i) owners[i] = owners[i] || (*owned)[i];
  return {};
}

/// Sends away who has no part in the model that is to be seeded. What the others own.
static shard_mask owned_by_fitting(pointer self, const supervisor_state::waiting_boot& w) {
  auto& ranks = self->state.ranks;
  const auto& shape = w.request.shape;
  auto owners = w.request.owned;
  for (const auto rank : w.asked)
    (void)misfit_of(ranks.at(rank).hello, shape, owners);  // these fit
  for (auto it = ranks.begin(); it != ranks.end();) {
    const bool known = w.asked.contains(it->first);
    auto why = known ? std::string() : misfit_of(it->second.hello, shape, owners);
    it = why.empty() ? std::next(it) : drop_rank(self, it, errc::wrong_layout, std::move(why));
  }
  return owners;
}

/// Goes on with a boot that waits for other ranks, as far as that can be.
static void advance_boot(pointer self) {
  auto& state = self->state;
  if (!state.waiting) return;
  auto& w = *state.waiting;
  const auto others = state.env->options.transport.ranks - 1;
  if (w.asked.size() < others) {
    const auto owners = owned_by_fitting(self, w);
    if (state.ranks.size() < others) return;
    const auto orphan = std::ranges::find(owners, false) - owners.begin();
    if (orphan != std::ssize(owners))
      return refuse_boot(
          self, errc::wrong_layout,
          "no rank owns tensor '" + w.request.shape[static_cast<std::size_t>(orphan)].name + "'");
    for (const auto& [rank, r] : state.ranks)
      if (w.asked.insert(rank).second)
        self->send(r.link, shard_task_msg{state.env->cluster,
                                          shard_task::seed,
                                          {w.request.run, 0},
                                          w.request.store->label(),
                                          0});
  }
  if (w.seeded.size() < others) return;
  digest sum;
  for (const auto& [rank, d] : w.seeded) sum = sum + d;
  auto request = std::move(w.request);
  state.waiting.reset();
  start_group(self, std::move(request), sum);
}

/// Ranks of one job come within seconds of one another.
static constexpr auto wait_before_word = std::chrono::seconds(5);
static constexpr auto wait_between_words = std::chrono::minutes(1);

void say_who_is_missing(pointer self) {
  auto& state = self->state;
  const auto now = self->clock().now();
  auto& waiting = state.waiting;
  if (!waiting) return;
  auto missing = missing_ranks(state);
  if (now < waiting->say_next && (waiting->said.empty() || waiting->said == missing)) return;
  waiting->say_next = now + wait_between_words;
  state.env->log->warn("the trainer's side waits for its other ranks: {}", missing);
  waiting->said = std::move(missing);
}

std::string missing_ranks(const supervisor_state& state) {
  const auto& seeded = state.waiting->seeded;
  const auto ranks = state.env->options.transport.ranks;
  const bool there = state.ranks.size() + 1 == ranks;
  std::string list;
  for (std::uint32_t rank = 1; rank < ranks; ++rank)
    if (there ? !seeded.contains(rank) : !state.ranks.contains(rank))
      list += (list.empty() ? "" : ", ") + std::to_string(rank);
  return (there ? "not seeded by rank " : "no word of rank ") + list;
}

void boot(pointer self, boot_request m) {
  auto& state = self->state;
  end_trainer(self, sequel::another_run);
  if (state.waiting) refuse_boot(self, errc::busy, "another start has taken its place");
  // A version names one content for ever, so no two runs may share a number, whatever the clock
  // that they were drawn from did and however often a run was restarted under the next one.
  m.run = state.last_run = std::max(m.run, state.last_run + 1);
  if (state.env->options.transport.ranks == 1) {
    m.shape = m.store->shape();
    return start_group(self, std::move(m), {});
  }
  state.waiting =
      supervisor_state::waiting_boot{std::move(m), {}, {}, self->clock().now() + wait_before_word};
  advance_boot(self);
}

/// One failure domain: without a part of the model the rest leads nowhere.
void rank_died(pointer self, std::uint32_t rank) {
  auto& state = self->state;
  state.ranks.erase(rank);
  state.env->log->error("rank {} of the trainer is gone", rank);
  if (state.waiting && state.waiting->asked.contains(rank))
    refuse_boot(self, errc::dead, "rank " + std::to_string(rank) + " is gone");
  if (!state.trainer) return;
  state.env->log->critical("the trainer's side is over: seed again");
  end_trainer(self, sequel::another_run);
  perform(self, state.policy->on_new_run(self->clock().now()));  // nobody is a member of anything
}

/// A rank announces itself.
void on_rank(pointer self, shard_hello_msg& m) {
  auto& state = self->state;
  const auto ranks = state.env->options.transport.ranks;
  if (m.cluster != state.env->cluster) return;
  const auto from = caf::actor_cast<rank_link_actor>(self->current_sender());
  if (m.rank == 0 || m.rank >= ranks || m.ranks != ranks)
    return refuse_rank(self, from, m, errc::wrong_layout,
                       "it is one of " + std::to_string(m.ranks) + " ranks, and this trainer has " +
                           std::to_string(ranks));
  if (const auto known = state.ranks.find(m.rank); known != state.ranks.end()) {
    if (known->second.link == from) return;
    const auto& before = known->second;
    // The same process has dialed anew: its other link has ended there, whatever it seems here.
    if (before.hello.inc == m.inc) {
      self->demonitor(before.link.address());
      self->send_exit(before.link, caf::exit_reason::user_shutdown);
      rank_died(self, m.rank);
      return on_rank(self, m);
    }
    // Displaced, it would come back and displace this one in turn. A link that only seems to live
    // ends by itself soon: until then the newcomer asks again.
    return refuse_rank(self, from, m, errc::busy, "there is one already, one process to a number");
  }
  self->monitor(from);
  state.env->log->info("rank {} is there", m.rank);
  state.ranks[m.rank] = {from, std::move(m)};
  for (const auto& [id, c] : state.children) look_at_reach(self, c);
  advance_boot(self);
}

void on_rank_result(pointer self, const shard_result_msg& m) {
  auto& state = self->state;
  const auto rank = state.ranks.find(m.rank);
  if (!state.waiting || m.what != shard_task::seed || rank == state.ranks.end() ||
      rank->second.hello.inc != m.inc || m.txn.run != state.waiting->request.run)
    return;
  if (m.reason != errc::none) {  // the others wait for one that can
    state.waiting->asked.erase(m.rank);
    drop_rank(self, rank, m.reason, m.detail);
    return;
  }
  state.waiting->seeded[m.rank] = m.state;
  advance_boot(self);
}

}  // namespace lockstep::supervising
