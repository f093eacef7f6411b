#include "sim/training.hpp"

#include <algorithm>
#include <caf/send.hpp>

namespace lockstep::sim {

using std::chrono::milliseconds;

namespace {

/// Nobody's next sync.
constexpr std::uint64_t odd_label = 1'000'000;

/// Whether there is no run that a further sync could belong to (apps/trainer_command.cpp).
bool is_over(const sync_report& r) {
  return r.reason == errc::shut_down || r.reason == errc::unreachable || r.reason == errc::dead;
}

}  // namespace

training::training(const run_options& o, fleet& of, scheduler& on, dice& chance, checker& observer)
    : fleet_(of),
      scheduler_(on),
      dice_(chance),
      checker_(observer),
      random_(mix(o.seed, 0x7a19)),
      repeats_(mix(o.seed, 0x2e9) % 2 == 0) {}

void training::begin(trainer_process& t) {
  t.loop.seeks = true;
  plan_seed(t);
  for (auto& p : t.others) plan_seed(p);
}

// --- seeds --------------------------------------------------------------------------------------

/// The first who knows that the run is over decides what the next one begins with.
void training::lose(trainer_process& t) {
  if (std::exchange(t.lost, true)) return;
  const auto how = random_.below(4);
  if (how == 0) {
    t.base = t.weights_of.rbegin()->first + 1;
    t.weights_of[t.base] = fleet_.checkpoint(random_());
  } else if (how != 1) {
    t.base = t.label;
  }
}

void training::seed(trainer_process& t) {
  t.loop.seeks = true;
  lose(t);
  // Whoever seeds waits for the sync before it.
  if (t.ticket) return caf::anon_send(t.supervisor, hurry_request{});
  plan_seed(t);
}

void training::seed(rank_process& p) {
  p.loop.seeks = true;
  lose(*p.of);
  if (!p.ticket) plan_seed(p);
}

template <class Process>
void training::plan_seed(Process& p) {
  if (std::exchange(p.loop.planned, true)) return;
  const auto from = std::max(scheduler_.now(), p.still_until);
  scheduler_.at(from + milliseconds(random_.below(300)), [this, &p, life = p.lives] {
    if (!p.up || p.lives != life) return;
    p.loop.planned = false;
    if (!p.loop.seeks || p.loop.seeded.valid()) return;
    if (p.standing_still) return plan_seed(p);
    begin_seed(p);
  });
}

void training::begin_seed(trainer_process& t) {
  t.loop.base = t.base;
  weight_buffer weights(t.weights.shape());
  copy_into(weights, fleet_.weights_at(t, t.base));
  auto m = fleet_.boot_of(t, fleet_.owned_by(0), weights);
  t.loop.seeded = m.answer->get_future();
  caf::anon_send(t.supervisor, std::move(m));
}

void training::begin_seed(rank_process& p) {
  p.loop.base = p.of->base;
  copy_into(p.weights, fleet_.weights_at(*p.of, p.loop.base));
  auto m = fleet_.boot_of(*p.of, p.owned, p.weights);
  p.loop.seeded = m.answer->get_future();
  caf::anon_send(p.actor, std::move(m));
}

std::optional<bool> training::outcome(training_loop& loop) {
  if (!loop.seeded.valid() ||
      loop.seeded.wait_for(std::chrono::seconds(0)) != std::future_status::ready)
    return std::nullopt;
  try {
    loop.seeded.get();
  } catch (const error&) {
    return false;
  }
  loop.seeks = loop.repeats = false;
  loop.left_out = 0;
  loop.meant = loop.base;
  return true;
}

void training::after(trainer_process& t) {
  const auto done = outcome(t.loop);
  if (!done) return;
  if (!*done) return plan_seed(t);
  t.label = t.loop.base;
  t.lost = false;
  on_seeded(t);
}

// --- syncs --------------------------------------------------------------------------------------

void training::follow(trainer_process& t) {
  t.loop.meant = t.label;
  for (auto& p : t.others) want(p);
}

std::uint64_t training::next_of(const rank_process& p) const {
  return p.loop.repeats ? p.loop.meant : p.loop.meant + 1;
}

void training::want(rank_process& p) {
  if (p.loop.seeks || p.ticket || std::exchange(p.loop.planned, true)) return;
  const auto from = std::max(scheduler_.now(), p.still_until);
  scheduler_.at(from + milliseconds(random_.below(300)), [this, &p, life = p.lives] {
    if (p.up && p.lives == life) come(p, false);
  });
}

void training::come(rank_process& p, bool late) {
  p.loop.planned = false;
  if (p.loop.seeks) return plan_seed(p);  // its run has ended meanwhile
  if (p.ticket) return;
  if (p.standing_still) return want(p);
  const auto next = next_of(p);
  // At most one step ahead of the one who leads, who has to come for the sync to begin.
  const bool absent = p.loop.left_out != 0 && p.of->label <= p.loop.left_out;
  if (next > p.of->label + (troubled_ ? 1 : 0) || (absent && troubled_)) {
    if (!troubled_) return;
    return is_running(p) ? want(p) : seed(p);
  }
  if (!late && dice_.strikes(fault_id::late_rank)) {
    p.loop.planned = true;
    scheduler_.in(milliseconds(dice_.below(fault_id::late_rank, 12'000)),
                  [this, &p, life = p.lives] {
                    if (p.up && p.lives == life) come(p, true);
                  });
    return;
  }
  p.loop.meant = next;
  p.loop.repeats = false;
  p.loop.left_out = 0;
  // Trainers that try again until all have come to a step do not leave one out.
  if (!repeats_ && dice_.strikes(fault_id::absent_rank)) {
    p.loop.left_out = next;
    return want(p);
  }
  checker_.check_released(p);
  p.over = p.dropped;
  fleet_.sync(p, dice_.strikes(fault_id::odd_rank) ? next + odd_label : next);
}

bool training::is_running(const rank_process& p) const {
  const auto* s = fleet_.state_of_rank(p);
  return s && s->snapshot;
}

std::optional<sync_report> training::after(rank_process& p) {
  if (const auto done = outcome(p.loop)) {
    if (!*done) {
      plan_seed(p);
      return std::nullopt;
    }
    want(p);
  }
  if (!p.ticket) return std::nullopt;
  auto report = p.ticket->wait_report(milliseconds(0));
  if (!report) return std::nullopt;
  p.ticket.reset();
  checker_.on_report(p, *report);
  go_on(p, *report);
  return report;
}

void training::go_on(rank_process& p, const sync_report& report) {
  if (is_over(report)) return seed(p);
  p.loop.repeats = repeats_ && report.result == sync_result::aborted;
  // Trainers that were at odds agree on where they are.
  if (report.reason == errc::bad_input && p.of->label != 0)
    p.loop.meant = std::max(p.loop.meant, p.of->label - (p.loop.repeats ? 0 : 1));
  want(p);
}

void training::on_report(trainer_process& t, const sync_report& report) {
  t.loop.repeats = repeats_ && report.result == sync_result::aborted;
}

// --- processes ----------------------------------------------------------------------------------

bool training::crash(trainer_process& t, std::uint32_t rank, milliseconds away) {
  if (rank == 0) {
    if (!t.up) return false;
    t.ticket.reset();
    fleet_.crash_first(t);
    scheduler_.in(away, [this, &t] { revive(t); });
    return true;
  }
  auto& p = t.others[rank - 1];
  if (!p.up) return false;
  fleet_.crash(p);
  scheduler_.in(away, [this, &p] { revive(p); });
  return true;
}

void training::revive(trainer_process& t) {
  // Not where all of the trainer has ended meanwhile, and another leads.
  if (t.up || &t != &fleet_.leader()) return;
  fleet_.begin_first(t);
  seed(t);
}

void training::revive(rank_process& p) {
  if (p.up || p.of != &fleet_.leader()) return;
  fleet_.begin_life(p);
  seed(p);
}

void training::end_trouble(trainer_process& t) {
  troubled_ = false;
  revive(t);
  for (auto& p : t.others) revive(p);
}

void training::help(trainer_process& t) {
  const auto* s = fleet_.actors_of(t).supervisor;
  if (s && !s->trainer && !s->waiting && !t.loop.seeks && !t.ticket) seed(t);
  for (auto& p : t.others) {
    if (p.up && !is_running(p) && !p.loop.seeks && !p.ticket) seed(p);
  }
}

bool training::is_at_rest(const trainer_process& t) const {
  const auto rests = [](const training_loop& loop) { return !loop.seeks && !loop.planned; };
  return rests(t.loop) &&
         std::ranges::all_of(t.others, [&](const auto& p) { return p.up && rests(p.loop); });
}

bool training::is_aligned(const trainer_process& t) const {
  const auto next = t.loop.repeats ? t.label : t.label + 1;
  return std::ranges::all_of(
      t.others, [&](const auto& p) { return p.ticket ? p.label == next : next_of(p) == next; });
}

}  // namespace lockstep::sim
