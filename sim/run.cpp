// One run: the fleet is made, trained and troubled, then left in peace and asked to be whole.
#include <fmt/format.h>

#include <algorithm>

#include "sim/striker.hpp"
#include "sim/validator.hpp"
#include "weights/workers.hpp"

namespace lockstep::sim {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// From one sync that the leader asks for to the next: far more than any fleet needs (64 receivers
/// that relay take some 2,000). Whoever takes them goes in circles.
constexpr std::uint64_t steps_max = 1'000'000;
/// A handful for each actor that is alive, and for those that ended lately.
constexpr std::size_t timers_max = 1'000;
/// However many lives begin before the clock first moves, and lets those of the dead run out.
constexpr std::size_t timers_of_life = 8;
/// Those that a slow link holds back, and zombies.
constexpr std::size_t under_way_max = 20'000;
/// How long a fleet may take to be whole again once nothing fails any more. The longest thing that
/// can be under way is a replayed message of 40 s and a pause of 60 s.
constexpr auto whole_within = seconds(180);
constexpr auto late_until = seconds(5);
constexpr auto report_within = seconds(60);
/// Syncs that a rank which is elsewhere may take to come to where the others are.
constexpr int aligned_within = 4;

/// What nobody can find without digests does not strike.
fault_rates rates_of(const run_options& o) {
  auto out = o.rates;
  if (!o.digests) out[fault_id::lie] = out[fault_id::rot] = 0;
  return out;
}

class simulation final : public spectator {
 public:
  explicit simulation(const run_options& o)
      : o_(o),
        trace_(o.level, o.to),
        scheduler_(o.seed),
        dice_(o.seed, rates_of(o), o.keep),
        random_(mix(o.seed, 0x7a7)),
        fleet_(o, scheduler_, dice_, trace_),
        network_(scheduler_, dice_, trace_, fleet_, o.seed),
        saboteur_(o, fleet_),
        checker_(fleet_, saboteur_),
        validator_(fleet_),
        training_(o, fleet_, scheduler_, dice_, checker_),
        striker_(o, scheduler_, dice_, fleet_, network_, training_) {
    scheduler_.set_spectator(this);
    network_.set_translator(&saboteur_);
    network_.set_listener([this](endpoint from, endpoint to, const wire_message& m) {
      if (from < fleet_.receivers().size())
        checker_.on_sent(from, m);
      else if (to < fleet_.receivers().size() && !fleet::is_rank(from))
        checker_.on_said(fleet_.trainer_at(from), to, m);
    });
    network_.set_witness([this](endpoint from, const address& to, const auto& m) {
      validator_.on_said(from, to, m);
    });
    fleet_.on_lie = [this] { validator_.on_lie(); };
    striker_.begin_trainer = [this](std::uint64_t chance) { begin_trainer(chance); };
    striker_.end_trainer = [this](trainer_process& t) { end(t); };
    striker_.on_lost_sync = [this] { ++result_.lost; };
    training_.on_seeded = [this](trainer_process& t) {
      if (troubled_) want_sync(t);
    };
  }

  ~simulation() override { scheduler_.end(); }

  run_result run() {
    fleet_.start(network_);
    begin_training(fleet_.leader(), fleet_.checkpoint(0));
    trouble();
    if (!stopped()) peace();
    trace_.line(trace_level::events, [&]() -> std::string {
      if (!checker_.violation().empty()) return "VIOLATION " + checker_.violation();
      return cut_short() ? "cut short" : "every promise was kept";
    });
    result_.violation = checker_.violation();
    result_.hash = trace_.hash();
    result_.struck = dice_.struck();
    for (const auto& row : fault_table())
      result_.faults[static_cast<std::size_t>(row.id)] = dice_.count(row.id);
    result_.met = fleet_.met();
    result_.met[static_cast<std::size_t>(consequence::lost_ack)] = network_.lost_acks();
    result_.joins_kept = checker_.joins_kept() + validator_.joins_kept();
    result_.elapsed = std::chrono::floor<std::chrono::microseconds>(scheduler_.elapsed());
    return std::move(result_);
  }

  // --- spectator
  bool stands_still(const caf::scheduled_actor& actor) override {
    if (const auto* r = fleet_.receiver_of(actor)) return r->standing_still;
    if (const auto* p = fleet_.rank_of(actor)) return p->standing_still;
    const auto* t = fleet_.trainer_of(actor);
    if (!t || t->standing_still) return t != nullptr;
    return scheduler_.now() < t->stages_from && std::string_view(actor.name()) == "snapshot";
  }

  void before(caf::scheduled_actor& actor, caf::mailbox_element* message) override {
    trace_.fold(actor.id());
    trace_.fold(message ? message->content().type_token() : 1);
    trace_.line(trace_level::steps, [&] { return step_text(actor, message); });
    strike_staging(actor, message);
    before_ = waiting_of(actor);
    ticks_ = message != nullptr && message->content().match_elements<tick>();
    saboteur_.before(actor, message);
    checker_.before(actor, message);
    validator_.before(actor, message);
  }

  void after(caf::scheduled_actor& actor) override {
    saboteur_.after(actor);
    checker_.after(actor);
    validator_.after(actor);
    // A protocol that is broken on purpose is the observers' to catch, not the model's.
    if (o_.broken == variant::none && !validator_.violation().empty())
      checker_.violated(validator_.violation());
    if (auto* r = fleet_.receiver_of(actor)) {
      const bool its_own = r->up && r->actor && r->actor.id() == actor.id();
      if (its_own && actor.getf(caf::abstract_actor::is_terminated_flag)) {
        if (ticks_) scrubbed(*r);
        fleet_.ended(*r, dice_.below(fault_id::crash_writing, 1u << 30));
      }
    } else if (auto* t = fleet_.trainer_of(actor)) {
      const auto now = waiting_of(actor);
      if (!before_.alone && now.alone) fleet_.count(consequence::snapshot_last);
      // Nothing but time ends it so: the snapshot's word comes as a message.
      if (ticks_ && before_.any && !now.any) fleet_.count(consequence::snapshot_late);
      // Only these say what became of a sync.
      const std::string_view name = actor.name();
      if (t->ticket && (name == "sender" || name == "supervisor")) look_for_report(*t, actor);
      if (o_.ranks > 1) training_.after(*t);
    } else if (auto* p = fleet_.rank_of(actor)) {
      if (const auto report = training_.after(*p)) say_report(p->where, *report);
    }
  }

  void before_time_passes() override { checker_.before_time_passes(); }

  void ended(const caf::scheduled_actor& actor) override {
    checker_.on_ended(actor);
    validator_.on_ended(actor);
  }

 private:
  /// Whether a sender waits for its snapshot's word on a delta, and for nobody else's.
  struct waiting {
    bool any = false;
    bool alone = false;
  };
  waiting waiting_of(const caf::scheduled_actor& actor) {
    if (std::string_view(actor.name()) != "sender") return {};
    const auto* t = fleet_.trainer_of(actor);
    const auto* s = t ? fleet_.actors_of(*t).sender : nullptr;
    if (!s) return {};
    return {s->machine->awaits_proof_of(t->sync_txn), s->machine->awaits_snapshot()};
  }
  void strike_staging(caf::scheduled_actor& actor, caf::mailbox_element* message) {
    if (message == nullptr) return;
    auto& content = message->content();
    if (content.match_elements<stage_request>()) {
      if (auto* t = fleet_.trainer_of(actor))
        fleet_.before_staging(*t, content.get_mutable_as<stage_request>(0));
    } else if (content.match_elements<encode_result>()) {
      if (auto* t = fleet_.trainer_of(actor)) fleet_.before_staging(*t);
    }
  }

  bool cut_short() const { return o_.steps_max != 0 && result_.steps >= o_.steps_max; }
  bool stopped() const { return !checker_.violation().empty() || cut_short(); }

  std::string step_text(const caf::scheduled_actor& actor, caf::mailbox_element* message) {
    std::string who = actor.name();
    if (const auto* r = fleet_.receiver_of(actor)) {
      who = fleet_.name_of(r->where);
    } else if (const auto where = fleet_.where_trains(actor)) {
      who = fleet_.name_of(*where) + '/' + who;
      // Flushers are told apart by whom they ship to.
      if (const auto at = fleet_.address_of(caf::strong_actor_ptr(actor.ctrl()));
          at && at->what == role::flusher)
        who += '-' + std::to_string(at->flusher_of);
    }
    return who + ": " + (message ? describe(message->content()) : "begins");
  }

  bool step() {
    ++result_.steps;
    if (o_.steps_seen) o_.steps_seen->fetch_add(1, std::memory_order_relaxed);
    trace_.set_time(scheduler_.elapsed());
    if (const auto what = dice_.at_step()) strike(*what);
    const bool any = scheduler_.step();
    say_strikes();
    if (!any) checker_.violated("L1: nothing will ever happen again");
    if (!network_.unnoticed().empty())
      checker_.violated("a damaged message went unnoticed, and was taken for " +
                        network_.unnoticed());
    if (scheduler_.timers() > timers_max + timers_of_life * dice_.count(fault_id::attach))
      checker_.violated("bounds: timers become more and more");
    if (network_.under_way() + (o_.ranks > 1 ? fleet_.links().under_way() : 0) > under_way_max)
      checker_.violated("bounds: messages on their way become more and more");
    if (steps_since_asked() > steps_max) checker_.violated("bounds: the run does not end");
    for (const auto& t : fleet_.trainers())
      if (t.up && t.ticket && !t.standing_still && scheduler_.now() > t.due)
        checker_.violated("R15: " + fleet_.name_of(t.where) + " has not reported in time");
    return !stopped();
  }

  /// Names what has struck since the last time.
  void say_strikes() {
    const auto& struck = dice_.struck();
    for (; said_ < struck.size(); ++said_)
      trace_.line(trace_level::events, [&] { return "FAULT " + to_string(struck[said_]); });
  }

  std::uint64_t steps_since_asked() const { return result_.steps - asked_step_; }

  // --- training
  void want_sync(trainer_process& t) {
    scheduler_.in(milliseconds(random_.below(300)), [this, &t] {
      if (!t.up || t.ticket || (troubled_ && issued_ >= o_.syncs)) return;
      if (o_.ranks > 1 && t.loop.seeks) return;
      if (!t.standing_still) checker_.check_released(t);
      if (&t == &fleet_.leader()) {
        ++issued_;
        asked_step_ = result_.steps;
      }
      asked_at_ = scheduler_.now();
      begin_sync(t);
    });
  }

  void begin_sync(trainer_process& t) {
    checker_.on_sync(t);
    fleet_.sync(t, t.loop.repeats);
    if (o_.ranks > 1) training_.follow(t);
  }

  /// A trainer starts from these weights.
  void begin_training(trainer_process& t, const bytes& from) {
    if (o_.ranks > 1) return training_.begin(t);
    checker_.on_boot(t.run, from);
    want_sync(t);
  }

  void look_for_report(trainer_process& t, const caf::scheduled_actor& actor) {
    const auto report = t.ticket->wait_report(milliseconds(0));
    if (!report) return;
    t.ticket.reset();
    count(*report);
    say_report(t.where, *report);
    checker_.on_report(t, *report, fleet_.is_current_sender(t, actor));
    last_ = report->result;
    if (o_.ranks > 1) training_.on_report(t, *report);
    if (report->complete()) fleet_.remember(bytes_of(t.weights));
    if (&t == &fleet_.leader() && !troubled_) {
      if (scheduler_.now() - asked_at_ > report_within) checker_.violated("L1: a report came late");
      return;
    }
    // Of several ranks a run is not taken up by itself.
    const bool dead = o_.ranks > 1 && report->reason == errc::dead && report->participants.empty();
    const bool over = report->reason == errc::shut_down || report->reason == errc::fenced || dead;
    if (over && &t != &fleet_.leader()) return retire(t, report->reason);
    if (over && o_.ranks > 1 && report->reason != errc::fenced) return training_.seed(t);
    if (over) return replace_leader();
    if (o_.ranks > 1 && t.loop.seeks) return training_.seed(t);
    want_sync(t);
  }

  /// An operator's hand, in a while: a trainer that was fenced must have come to rest by itself.
  void retire(trainer_process& t, errc why) {
    scheduler_.in(seconds(1), [this, &t, why] {
      if (why == errc::fenced && !t.standing_still) checker_.check_fenced(t);
      fleet_.crash(t);
    });
  }

  void count(const sync_report& report) {
    result_.ok += report.result == sync_result::ok;
    result_.recovered += report.result == sync_result::recovered;
    result_.degraded += report.result == sync_result::degraded;
    result_.aborted += report.result == sync_result::aborted;
    for (const auto& p : report.participants) {
      result_.reseeds += p.reseeds;
      result_.catch_ups += p.catch_ups;
    }
  }

  void say_report(endpoint from, const sync_report& report) {
    trace_.fold(mix(report.label, static_cast<std::uint64_t>(report.result),
                    mix(report.target.number, report.participants.size())));
    trace_.line(trace_level::events, [&] { return report_text(from, report); });
  }

  std::string report_text(endpoint from, const sync_report& report) const {
    auto out = fmt::format("{} reports sync {}: {}", fleet_.name_of(from), report.label,
                           to_string(report.result));
    if (report.reason != errc::none) out += fmt::format(" ({})", to_string(report.reason));
    for (const auto& p : report.participants) {
      if (p.status == terminal::ok && p.redos == 0) continue;
      out += fmt::format(", receiver-{} {} {}", p.id, to_string(p.status), to_string(p.reason));
      if (p.redos != 0) out += fmt::format(", sent again {} times", p.redos);
      if (p.reseeds != 0) out += ", reseeded";
      if (p.catch_ups != 0) out += ", caught up";
    }
    return out;
  }

  void begin_trainer(std::uint64_t chance) {
    const auto from = fleet_.checkpoint(chance);
    begin_training(fleet_.begin_trainer(from), from);
  }

  void end(trainer_process& t) {
    if (t.ticket) ++result_.lost;
    t.ticket.reset();
    fleet_.crash(t);
  }

  void replace_leader() {
    end(fleet_.leader());
    begin_trainer(random_());
  }

  // --- trouble
  void trouble() {
    troubled_ = true;
    while (step()) {
      const auto& t = fleet_.leader();
      if (issued_ >= o_.syncs && t.up && !t.ticket) return;
    }
  }

  void strike(fault_id id) {
    say_strikes();
    if (striker_.strike(id)) return;
    dice_.miss(id);
    trace_.line(trace_level::events, [] { return std::string("it finds nothing to strike"); });
  }

  // --- peace
  void peace() {
    troubled_ = false;
    dice_.stop();
    striker_.stop();
    network_.heal();
    fleet_.lift_pauses();
    auto& all = fleet_.trainers();
    for (std::size_t i = 0; i + 1 < all.size(); ++i) end(all[i]);
    if (o_.ranks > 1)
      training_.end_trouble(fleet_.leader());
    else if (!fleet_.leader().up)
      begin_trainer(random_());
    // Who left comes back: `sync.members_min` may ask for all of them.
    for (auto& r : fleet_.receivers()) {
      r.wanted = true;
      fleet_.begin_life(r);
    }
    asked_step_ = result_.steps;
    trace_.line(trace_level::events, [] { return std::string("faults stop"); });
    // What was late when they stopped may still make somebody else late.
    for (const auto until = scheduler_.now() + late_until; scheduler_.now() < until;)
      if (!step()) return;
    if (!rot_is_found_at_rest()) return;
    for (int last = 0; last < 2; ++last) {
      if (!become_whole() || !align()) return;
      const bool rotten = any_rotten();
      if (!sync_in_peace()) return;
      // Whoever finds rot refuses, and what comes of that depends on who else there is.
      if (!rotten && last_ != sync_result::ok)
        return checker_.violated("L1: after the faults had stopped a sync was not ok");
    }
    if (become_whole() && any_rotten()) checker_.violated("I1: rot was not found");
  }

  bool sync_in_peace() {
    asked_at_ = scheduler_.now();
    begin_sync(fleet_.leader());
    while (fleet_.leader().ticket)
      if (!step()) return false;
    return true;
  }

  /// A rank that is at another sync than the others is so until they come to their next one.
  bool align() {
    for (int tries = 0; o_.ranks > 1 && !training_.is_aligned(fleet_.leader()); ++tries) {
      if (tries == aligned_within) {
        checker_.violated("L1: a rank never comes to the sync of the others");
        return false;
      }
      if (!sync_in_peace() || !become_whole()) return false;
    }
    return true;
  }

  /// Nothing but rot that it finds by itself ends a receiver as time passes.
  void scrubbed(const receiver_process& r) {
    fleet_.count(consequence::scrubbed);
    if (!r.rotten) checker_.violated("L1: sound weights are taken for rotten");
  }

  /// Who scrubs needs no sync to find out.
  bool rot_is_found_at_rest() {
    const milliseconds every(fleet_.options().receiver.scrub_ms);
    if (every == every.zero()) return true;
    for (const auto until = scheduler_.now() + 2 * every; scheduler_.now() < until;)
      if (!step()) return false;
    if (!become_whole()) return false;
    if (any_rotten()) checker_.violated("I1: nobody found rot while nobody synced");
    return !any_rotten();
  }

  bool any_rotten() { return std::ranges::any_of(fleet_.receivers(), &receiver_process::rotten); }

  /// An operator looks at who was given up, and at a trainer's side that stays down.
  void help() {
    const auto actors = fleet_.actors_of(fleet_.leader());
    if (!actors.supervisor) return;
    if (o_.ranks > 1)
      training_.help(fleet_.leader());
    else if (!actors.supervisor->trainer && actors.supervisor->last_run != 0)
      return replace_leader();
    for (const auto& [id, record] : actors.supervisor->policy->records()) {
      auto* r = fleet_.life({id, record.inc});
      if (r && record.where == standing::gave_up && record.reason != errc::dead) {
        fleet_.crash(*r, 0);
      }
    }
  }

  bool become_whole() {
    const auto until = scheduler_.now() + whole_within;
    auto look_at = scheduler_.now();
    const auto is_whole = [this] {
      return checker_.is_whole(fleet_.leader()) &&
             (o_.ranks == 1 || training_.is_at_rest(fleet_.leader()));
    };
    while (!is_whole()) {
      if (!step()) return false;
      if (scheduler_.now() < look_at) continue;
      help();
      look_at = scheduler_.now() + seconds(1);
      if (scheduler_.now() < until) continue;
      checker_.violated("L1: not whole again after the faults had stopped");
      return false;
    }
    return true;
  }

  const run_options& o_;
  run_result result_;
  trace trace_;
  scheduler scheduler_;
  dice dice_;
  random_stream random_;
  fleet fleet_;
  network network_;
  saboteur saboteur_;
  checker checker_;
  validator validator_;
  training training_;
  striker striker_;
  unsigned issued_ = 0;
  std::size_t said_ = 0;          // how many strikes have been named
  std::uint64_t asked_step_ = 0;  // at which the leader asked for its last sync
  bool troubled_ = false;
  waiting before_;      // this step
  bool ticks_ = false;  // in it time passes, and nothing is said
  time_point asked_at_;
  sync_result last_ = sync_result::ok;
};

}  // namespace

std::string_view to_string(consequence what) noexcept {
  constexpr std::array<std::string_view, consequence_count> names{
      "lease-ended",   "staged-expired", "late-commit", "served-stale", "lost-ack",
      "snapshot-last", "snapshot-late",  "scrubbed",    "ahead",        "lent"};
  return names[static_cast<std::size_t>(what)];
}

run_result run(const run_options& o) {
  set_workers(1);  // what several threads do comes in the kernel's order, not in the seed's
  return simulation(o).run();
}

}  // namespace lockstep::sim
