// The other ranks of a simulated trainer: how they live, and what each of them has of the model.
#include <caf/send.hpp>
#include <cstring>

#include "actors/patience.hpp"
#include "sim/fleet.hpp"

namespace lockstep::sim {

namespace {

template <class Handle>
caf::strong_actor_ptr strong(const Handle& handle) {
  return caf::actor_cast<caf::strong_actor_ptr>(handle);
}

/// Whether the tensors that are owned are those of `what`.
bool holds_part(const tensor_views& part, const shard_mask& owned, const layout& shape,
                const bytes& what) {
  std::size_t at = 0;
  for (std::size_t i = 0; i < shape.count(); ++i) {
    const auto size = static_cast<std::size_t>(shape.bytes(i));
    if (owned[i] && size != 0 && std::memcmp(part[i].bytes.data, what.data() + at, size) != 0)
      return false;
    at += size;
  }
  return true;
}

}  // namespace

/// Tensors of neighbouring ranks, by turns of the seed: at times one has nothing but an empty one.
shard_mask fleet::owned_by(std::uint32_t rank) const {
  shard_mask out(shape_.count());
  const auto turn = mix(o_.seed, 0x0a7) % o_.ranks;
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = (i + turn) % o_.ranks == rank;
  return out;
}

void fleet::begin_others(trainer_process& t) {
  t.weights_of[0] = bytes_of(t.weights);
  const auto index = t.where - first_trainer;
  for (std::uint32_t number = 1; number < o_.ranks; ++number) {
    auto& p = t.others.emplace_back();
    p.where = first_rank + index * ranks_max + number;
    p.number = number;
    p.of = &t;
    p.owned = owned_by(number);
    p.weights = weight_buffer(shape_);
    begin_life(p);
  }
}

void fleet::begin_life(rank_process& p) {
  ++p.lives;
  p.up = true;
  p.standing_still = false;
  p.still_until = {};
  const auto dial = [this, from = p.where, to = p.of->where](const rank_actor& me) {
    connections_->dial(from, to, me);
  };
  p.actor = scheduler_.system().spawn(rank_behavior, env_of(p.where, p.lives), rank_dialer(dial));
  trace_.line(trace_level::events,
              [&] { return name_of(p.where) + (p.lives == 1 ? " starts" : " starts again"); });
}

void fleet::begin_first(trainer_process& t) {
  t.up = true;
  t.run = std::max(t.run, t.last_run + 1);
  t.supervisor = scheduler_.system().spawn(supervisor_behavior, env_of(t.where, t.lives++));
  trace_.line(trace_level::events, [&] { return name_of(t.where) + " starts again"; });
}

void fleet::crash(rank_process& p) {
  if (!p.up) return;
  connections_->end_of(p.where);
  const auto* s = state_of_rank(p);
  p.up = false;
  if (s) {
    stop_actor(s->snapshot);
    for (const auto& [id, r] : s->receivers) stop_actor(r.flusher);
  }
  stop_actor(std::exchange(p.actor, {}));
  p.standing_still = false;
  p.ticket.reset();
  p.loop = {};
  trace_.line(trace_level::events, [&] { return name_of(p.where) + " has ended"; });
}

const bytes& fleet::weights_at(trainer_process& t, std::uint64_t label) {
  const auto known = t.weights_of.find(label);
  if (known != t.weights_of.end()) return known->second;
  auto next = std::prev(t.weights_of.upper_bound(label))->second;
  move(next);
  return t.weights_of.emplace(label, std::move(next)).first->second;
}

boot_request fleet::boot_of(const trainer_process& t, const shard_mask& owned,
                            const weight_buffer& weights) const {
  boot_request m;
  m.run = t.run;
  m.store = std::make_shared<snapshot_store>(shard_layout(shape_, owned),
                                             shard_reader(reader_of(weights), owned), t.base,
                                             settings_.sync.history_percent);
  m.shape = shape_;
  m.owned = owned;
  m.deadline = scheduler_.now() + rank_patience(settings_);
  m.answer = std::make_shared<std::promise<version_ref>>();
  return m;
}

void fleet::sync(rank_process& p, std::uint64_t label) {
  p.label = label;
  copy_into(p.weights, weights_at(*p.of, label));
  p.unreadable = dice_.strikes(fault_id::encode_fail);
  p.ticket = std::make_shared<ticket_state>(std::chrono::milliseconds(0));
  trace_.line(trace_level::events,
              [&] { return name_of(p.where) + " wants sync " + std::to_string(label); });
  const auto* s = snapshot_of_rank(p);
  const auto& encoded = encoded_of(p.weights, p.mistaken, s ? s->store.get() : nullptr);
  p.found_so = std::make_shared<bool>(false);
  const tensor_reader reader = [inner = reader_of_sync(encoded, p.unreadable), found = p.found_so,
                                fails = p.unreadable](std::size_t index) {
    if (fails) *found = true;
    return inner(index);
  };
  caf::anon_send(p.actor, sync_request{label, shard_reader(reader, p.owned), p.ticket});
}

// --- what they hold -----------------------------------------------------------------------------

const rank_process& fleet::find_rank(endpoint where) const {
  const auto at = where - first_rank;
  return trainers_.at(at / ranks_max).others.at(at % ranks_max - 1);
}

rank_process* fleet::rank_of(const caf::scheduled_actor& actor) {
  if (o_.ranks == 1) return nullptr;
  const auto where = where_is(actor);
  return where == nowhere || !is_rank(where) ? nullptr : &rank_at(where);
}

rank_state* fleet::state_of_rank(const rank_process& p) const {
  auto* s = p.up ? state_of<rank_actor, rank_state>(p.actor) : nullptr;
  return s && s->env ? s : nullptr;
}

snapshot_state* fleet::snapshot_of_rank(const rank_process& p) const {
  const auto* s = state_of_rank(p);
  auto* out = s ? state_of<snapshot_actor, snapshot_state>(s->snapshot) : nullptr;
  return out && out->machine ? out : nullptr;
}

bool fleet::snapshot_is(const trainer_process& t, version_ref version, const bytes& what) const {
  const auto* s = actors_of(t).supervisor;
  const auto is_part = [&](const snapshot_store& store, const shard_mask& owned) {
    return store.read(
        [&](const tensor_views& part) { return holds_part(part, owned, shape_, what); });
  };
  const auto mine = o_.ranks > 1 ? owned_by(0) : whole_model(shape_);
  if (s && s->trainer && !is_part(*s->trainer->boot.store, mine)) return false;
  for (const auto& p : t.others) {
    const auto* held = snapshot_of_rank(p);
    if (held == nullptr || held->machine->held().version.run != version.run) continue;
    if (held->machine->held().version != version || !is_part(*held->store, p.owned)) return false;
  }
  return true;
}

// --- directory ----------------------------------------------------------------------------------

caf::strong_actor_ptr fleet::resolve_at_rank(const address& who) {
  const auto& p = rank_at(who.where);
  if (who.what == role::supervisor) return strong(p.actor);
  const auto* s = state_of_rank(p);
  if (s == nullptr || who.what != role::flusher) return nullptr;
  const auto it = s->receivers.find(who.flusher_of);
  return it == s->receivers.end() ? nullptr : strong(it->second.flusher);
}

std::vector<endpoint> fleet::others_of(endpoint trainer) const {
  std::vector<endpoint> out;
  for (const auto& p : trainers_.at(trainer - first_trainer).others) out.push_back(p.where);
  return out;
}

bool fleet::is_still(endpoint where) const {
  if (is_rank(where)) return find_rank(where).standing_still;
  return where < first_trainer ? receivers_.at(where).standing_still
                               : trainers_.at(where - first_trainer).standing_still;
}

}  // namespace lockstep::sim
