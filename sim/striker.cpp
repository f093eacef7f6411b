#include "sim/striker.hpp"

#include <algorithm>

namespace lockstep::sim {

using std::chrono::milliseconds;
using f = fault_id;

namespace {

/// From a receiver's leave to its return. Without it lives of one moment could make more steps than
/// it takes for another to begin, so that the clock would never move.
constexpr auto away_min = milliseconds(1);
constexpr std::size_t trainers_max = 8;

}  // namespace

receiver_process& striker::some_receiver(f id) {
  auto& all = fleet_.receivers();
  return all[dice_.below(id, all.size())];
}
trainer_process& striker::some_trainer(f id) {
  auto& all = fleet_.trainers();
  // Mostly the one that leads.
  return dice_.below(id, 4) != 0 ? all.back() : all[dice_.below(id, all.size())];
}

/// A trainer's process: the one that leads, or any.
endpoint striker::some_process(f id) {
  const auto& t = some_trainer(id);
  const auto rank = t.others.empty() ? 0 : dice_.below(id, o_.ranks);
  return rank == 0 ? t.where : t.others[rank - 1].where;
}

/// To a process that does its clock jumps ahead, past its own deadlines and at times those of
/// everybody else.
bool striker::stand_still(f id) {
  const std::uint64_t most = dice_.below(id, 8) == 0 ? 20'000 : 4'000;
  const auto wait = milliseconds(dice_.below(id, most));
  const auto who = id == f::slow_trainer ? some_process(id) : some_receiver(id).where;
  return fleet_.stand_still(who, wait);
}

bool striker::strike(f id) {
  switch (id) {
    case f::cut:
    case f::cut_one_way:
    case f::slow_link:
    case f::flap:
      return strike_link(id);
    case f::swizzle:
      return swizzle();
    case f::crash_receiver:
      return crash_receiver();
    case f::detach:
      return detach(some_receiver(id));
    case f::attach:
      return attach();
    case f::false_down:
      return false_down();
    case f::slow_receiver:
    case f::slow_trainer:
      return stand_still(id);
    case f::clock_jump:
      fleet_.jump(milliseconds(dice_.below(id, 60'000)));
      return true;
    case f::rot:
      return rot(some_receiver(id));
    case f::kill_actor:
      return kill_actor();
    case f::crash_trainer:
      return crash_trainer();
    case f::zombie_trainer:
      if (!fleet_.leader().up || fleet_.trainers().size() >= trainers_max) return false;
      begin_trainer(dice_.below(id, 1u << 30));
      return true;
    default:
      return true;  // those that strike elsewhere
  }
}

bool striker::strike_link(f id) {
  // Ranks speak to the one that leads.
  const bool among_ranks = o_.ranks > 1 && dice_.below(id, 4) == 0;
  const auto a = among_ranks ? fleet_.leader().where : some_receiver(id).where;
  // Receivers that pass things on have links to each other, too.
  const bool relayed = o_.fanout != 0 && dice_.below(id, 2) == 0;
  const auto b = relayed ? some_receiver(id).where : some_process(id);
  if (a == b) return false;
  const auto until = scheduler_.now() + milliseconds(dice_.below(id, 8000));
  if (id == f::slow_link) {
    const auto by = milliseconds(dice_.below(id, 500));
    network_.slow(a, b, until, by);
    network_.slow(b, a, until, by);
    return true;
  }
  if (id == f::flap) {
    const auto half = milliseconds(1 + dice_.below(id, 400));
    network_.flap(a, b, until, half);
    network_.flap(b, a, until, half);
    return true;
  }
  const auto way = id == f::cut ? 2 : dice_.below(id, 2);
  if (way != 0) network_.cut(a, b, until);
  if (way != 1) network_.cut(b, a, until);
  return true;
}

bool striker::false_down() {
  const auto of = some_receiver(f::false_down).where;
  if (o_.ranks == 1) return network_.break_handles(of);
  // It may be told so at one rank, or what links a rank to the one that leads may break.
  const auto where = some_process(f::false_down);
  const auto what = dice_.below(f::false_down, 8);
  if (what == 0) return fleet_.links().break_one(where);
  return what < 4 ? network_.break_handles(of) : network_.break_handles(of, where);
}

bool striker::swizzle() {
  bool any = false;
  for (const auto& r : fleet_.receivers()) {
    if (dice_.below(f::swizzle, 2) == 0) continue;
    any = true;
    const auto begins = dice_.below(f::swizzle, 8000);
    const auto ends = begins + dice_.below(f::swizzle, 8000 - begins);
    const auto until = scheduler_.now() + milliseconds(ends);
    scheduler_.in(milliseconds(begins), [this, a = r.where, until] {
      if (!stopped_) cut_off(a, until);
    });
  }
  return any;
}

void striker::cut_off(endpoint a, time_point until) {
  const auto both_ways = [&](const auto& other) {
    network_.cut(a, other.where, until);
    network_.cut(other.where, a, until);
  };
  std::ranges::for_each(fleet_.receivers(), both_ways);
  std::ranges::for_each(fleet_.trainers(), both_ways);
  for (const auto& t : fleet_.trainers()) std::ranges::for_each(t.others, both_ways);
}

bool striker::crash_receiver() {
  auto& r = some_receiver(f::crash_receiver);
  if (!r.up) return false;
  fleet_.crash(r, dice_.below(f::crash_receiver, 1u << 30));
  return true;
}

bool striker::detach(receiver_process& r) {
  const auto left = std::ranges::count_if(fleet_.receivers(), &receiver_process::wanted);
  if (left <= 1 || !r.up) return false;
  fleet_.leave(r);
  return true;
}

bool striker::attach() {
  auto& all = fleet_.receivers();
  for (auto& r : all) {
    if (r.wanted || scheduler_.now() - r.left < away_min) continue;
    r.wanted = true;
    fleet_.begin_life(r);
    return true;
  }
  if (all.size() >= o_.receivers + 4) return false;
  fleet_.begin_life(fleet_.add_receiver());
  return true;
}

bool striker::rot(receiver_process& r) {
  if (!r.up) return false;
  std::vector<std::size_t> there;
  for (std::size_t i = 0; i < r.memory.shape().count(); ++i)
    if (r.takes(i) && !r.memory.tensor(i).empty()) there.push_back(i);
  const auto index = there[dice_.below(f::rot, there.size())];
  const auto tensor = r.memory.tensor(index);
  const auto bit = dice_.below(f::rot, tensor.size() * 8);
  tensor[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
  r.rotten = true;
  r.seen = bytes_of(r.memory);
  return true;
}

// Draws stand in statements of their own: each compiler has its own order of arguments.
bool striker::kill_actor() {
  const auto chance = dice_.below(f::kill_actor, 1u << 30);
  return fleet_.kill_one_actor(some_trainer(f::kill_actor), chance);
}

bool striker::crash_trainer() {
  auto& t = fleet_.leader();
  if (const auto one = o_.ranks > 1 ? dice_.below(f::crash_trainer, o_.ranks + 1) : 0; one != 0) {
    if (one == 1 && t.ticket) on_lost_sync();
    const auto away = milliseconds(dice_.below(f::crash_trainer, 3000));
    return training_.crash(t, static_cast<std::uint32_t>(one - 1), away);
  }
  if (!t.up || fleet_.trainers().size() >= trainers_max) return false;
  end_trainer(t);
  const auto chance = dice_.below(f::crash_trainer, 1u << 30);
  scheduler_.in(milliseconds(dice_.below(f::crash_trainer, 3000)), [this, chance, &t] {
    if (&t == &fleet_.leader()) begin_trainer(chance);
  });
  return true;
}

}  // namespace lockstep::sim
