#include "sim/fleet.hpp"

#include <spdlog/logger.h>
#include <spdlog/sinks/null_sink.h>

#include <algorithm>
#include <caf/send.hpp>
#include <cstring>

#include "protocol/deadlines.hpp"
#include "sim/broken_weights.hpp"

namespace lockstep::sim {

using std::chrono::milliseconds;

namespace {

layout model_of(std::uint32_t tensors) {
  std::vector<tensor_spec> all;
  for (std::uint32_t i = 0; i < tensors; ++i) all.push_back({std::to_string(i), dtype::u8, {4096}});
  return layout(std::move(all));
}

layout small_model() {
  return layout({{"a", dtype::bf16, {6, 8}},
                 {"b", dtype::f32, {5}},
                 {"c", dtype::u8, {0}},
                 {"d", dtype::f8_e4m3, {61}}});
}

/// Between two stops of one process. Time passes when nobody has anything left to do, so that
/// whatever had come has been handled.
constexpr auto runs_for = milliseconds(100);

/// What a sync without recovery may take, each of its rounds used in full; the votes until the
/// snapshot's word, which may come after all others.
milliseconds prompt_within(const settings& s) {
  const auto admission = s.sync.attach_timeout_ms + s.sync.full_timeout_ms;
  const auto commit = s.sync.commit_timeout_ms * (1 + s.sync.redo_max);
  // Each of the questions to other ranks: encode, stage, carve, advance, and of an
  // admission two more.
  const auto ranks = s.transport.ranks > 1 ? 6 * s.sync.recovery_timeout_ms : 0;
  // No bytes: the time that those of so small a model take is none.
  return proof_timeout(s, 0, 0) + milliseconds(admission + commit + ranks);
}
/// R15: twice what the deadlines of one sync add up to, each of its rounds used in full.
milliseconds report_within(const settings& s) {
  return 2 * (prompt_within(s) + milliseconds(s.sync.recovery_timeout_ms));
}

}  // namespace

bool holds(const receiver_process& r, const bytes& what) {
  std::size_t at = 0;
  for (std::size_t i = 0; i < r.memory.shape().count(); ++i) {
    const auto tensor = r.memory.tensor(i);
    const bool counts = !tensor.empty() && r.takes(i);
    if (counts && std::memcmp(tensor.data(), what.data() + at, tensor.size()) != 0) return false;
    at += tensor.size();
  }
  return true;
}

fleet::fleet(const run_options& o, scheduler& on, dice& chance, trace& log)
    : o_(o),
      scheduler_(on),
      dice_(chance),
      trace_(log),
      random_(mix(o.seed, 0xf1ee7)),
      shape_(o.tensors != 0 ? model_of(o.tensors) : small_model()),
      log_(std::make_shared<spdlog::logger>("simulation",
                                            std::make_shared<spdlog::sinks::null_sink_st>())),
      faults_(faults_on_purpose()) {
  log_->set_level(spdlog::level::off);
  choose_settings();
}

fleet::~fleet() = default;

std::function<std::uint64_t()> fleet::entropy_of(endpoint where, std::uint64_t life) {
  return [draw = random_stream(mix(o_.seed, where, life))]() mutable { return draw(); };
}

std::shared_ptr<const actor_env> fleet::env_of(endpoint where, std::uint64_t life) {
  auto env = std::make_shared<actor_env>();
  env->options = settings_;
  if (is_rank(where)) env->options.transport.rank = (where - first_rank) % ranks_max;
  env->cluster = cluster_id;
  env->entropy = entropy_of(where, life);
  env->log = log_;
  return env;
}

void fleet::start(network& net) {
  network_ = &net;
  if (o_.ranks > 1) {
    net.expect_ranks();
    connections_ = std::make_unique<connections>(scheduler_, dice_, trace_, *this, net,
                                                 silence_max(settings_), o_.seed);
  }
  weight_buffer first(shape_);
  bytes values(static_cast<std::size_t>(shape_.total_bytes()));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = value_of(i, true);
  begin_trainer(values);
  for (unsigned i = 0; i < o_.receivers; ++i) begin_life(add_receiver());
}

// --- what it consists of ------------------------------------------------------------------------

trainer_actors fleet::actors_of(const trainer_process& t) const {
  trainer_actors out;
  if (!t.up) return out;
  out.supervisor = state_of<supervisor_actor, supervisor_state>(t.supervisor);
  if (out.supervisor && !out.supervisor->policy) out.supervisor = nullptr;
  if (!out.supervisor || !out.supervisor->trainer) return out;
  out.sender = state_of<sender_actor, sender_state>(out.supervisor->trainer->sender);
  if (out.sender && !out.sender->machine) out.sender = nullptr;
  out.snapshot = state_of<snapshot_actor, snapshot_state>(out.supervisor->trainer->snapshot);
  if (out.snapshot && !out.snapshot->machine) out.snapshot = nullptr;
  return out;
}

receiver_state* fleet::state_of_receiver(const receiver_process& r) const {
  auto* s = r.up ? state_of<receiver_actor, receiver_state>(r.actor) : nullptr;
  return s && s->machine ? s : nullptr;
}

endpoint fleet::where_is(const caf::scheduled_actor& actor) {
  const auto id = static_cast<std::size_t>(actor.id());
  if (id >= where_.size()) where_.resize(id + 64);
  auto& known = where_[id];
  if (known != 0) return known - 1;
  const auto address = actor.address();
  const auto is = [&](const auto& handle) { return handle && handle.address() == address; };
  for (const auto& r : receivers_)
    if (is(r.actor) || is(r.relay)) known = r.where + 1;
  for (const auto& t : trainers_) {
    if (is(t.supervisor)) known = t.where + 1;
    const auto* s = actors_of(t).supervisor;
    if (!s) continue;
    if (s->trainer && (is(s->trainer->sender) || is(s->trainer->join) || is(s->trainer->snapshot)))
      known = t.where + 1;
    for (const auto& [receiver, c] : s->children)
      if (is(c.flusher)) known = t.where + 1;
  }
  for (const auto& t : trainers_)
    for (const auto& p : t.others) {
      if (is(p.actor)) known = p.where + 1;
      const auto* s = state_of_rank(p);
      if (s == nullptr) continue;
      if (is(s->snapshot)) known = p.where + 1;
      for (const auto& [receiver, r] : s->receivers)
        if (is(r.flusher)) known = p.where + 1;
    }
  return known == 0 ? nowhere : known - 1;
}

receiver_process* fleet::receiver_of(const caf::scheduled_actor& actor) {
  const auto where = where_is(actor);
  return where < receivers_.size() ? &receivers_[where] : nullptr;
}

trainer_process* fleet::trainer_of(const caf::scheduled_actor& actor) {
  const auto where = where_is(actor);
  if (where == nowhere || where < first_trainer || is_rank(where)) return nullptr;
  return &trainers_[where - first_trainer];
}

trainer_process* fleet::trainer_of(endpoint where) {
  if (is_rank(where)) return rank_at(where).of;
  return where < first_trainer ? nullptr : &trainer_at(where);
}

std::optional<endpoint> fleet::where_trains(const caf::scheduled_actor& actor) {
  const auto where = where_is(actor);
  return where == nowhere || where < first_trainer ? std::nullopt : std::optional(where);
}

receiver_process* fleet::life(const participant& who) {
  for (auto& r : receivers_)
    if (r.up && r.id == who.id && r.inc == who.inc) return &r;
  return nullptr;
}

// --- trainers -----------------------------------------------------------------------------------

trainer_process& fleet::begin_trainer(const bytes& checkpoint) {
  const auto from = checkpoint;  // a copy: it may be one of those that make room
  auto& t = trainers_.emplace_back();
  t.where = static_cast<endpoint>(first_trainer + trainers_.size() - 1);
  t.run = 1000 * trainers_.size();
  t.weights = weight_buffer(shape_);
  copy_into(t.weights, from);
  remember(from);
  trace_.line(trace_level::events,
              [&] { return name_of(t.where) + " starts as run " + std::to_string(t.run); });
  t.supervisor = scheduler_.system().spawn(supervisor_behavior, env_of(t.where, 0));
  if (o_.ranks > 1) {
    begin_others(t);
    return t;
  }
  t.store = std::make_shared<snapshot_store>(shape_, reader_of(t.weights), t.label,
                                             settings_.sync.history_percent);
  caf::anon_send(t.supervisor, boot_request{t.run, t.store, nullptr});
  return t;
}

void fleet::crash(trainer_process& t) {
  for (auto& p : t.others) crash(p);
  crash_first(t);
}

void fleet::crash_first(trainer_process& t) {
  if (!t.up) return;
  if (connections_) connections_->end_of(t.where);
  const auto* s = actors_of(t).supervisor;
  t.up = false;
  if (s) {
    t.last_run = std::max(t.last_run, s->last_run);
    if (s->trainer) {
      stop_actor(s->trainer->sender);
      stop_actor(s->trainer->join);
      stop_actor(s->trainer->snapshot);
    }
    for (const auto& [id, c] : s->children) stop_actor(c.flusher);
  }
  stop_actor(t.supervisor);
  t.standing_still = false;
  t.loop = {};
  trace_.line(trace_level::events, [&] { return name_of(t.where) + " has ended"; });
}

bool fleet::kill_one_actor(trainer_process& t, std::uint64_t chance) {
  const auto* s = actors_of(t).supervisor;
  if (!s || !s->trainer) return false;
  std::vector<std::pair<const char*, caf::actor>> all{
      {"sender", caf::actor_cast<caf::actor>(s->trainer->sender)},
      {"join", caf::actor_cast<caf::actor>(s->trainer->join)},
      {"snapshot", caf::actor_cast<caf::actor>(s->trainer->snapshot)}};
  for (const auto& [id, c] : s->children)
    if (c.flusher) all.emplace_back("flusher", caf::actor_cast<caf::actor>(c.flusher));
  for (const auto& p : t.others) {
    const auto* r = state_of_rank(p);
    if (r == nullptr) continue;
    if (r->snapshot) all.emplace_back("rank's snapshot", caf::actor_cast<caf::actor>(r->snapshot));
    for (const auto& [id, reached] : r->receivers)
      if (reached.flusher)
        all.emplace_back("rank's flusher", caf::actor_cast<caf::actor>(reached.flusher));
  }
  const auto& [name, actor] = all[chance % all.size()];
  trace_.line(trace_level::events,
              [&, what = name] { return name_of(t.where) + ": its " + what + " ends"; });
  caf::anon_send_exit(actor, caf::exit_reason::kill);
  return true;
}

void fleet::remember(const bytes& snapshot) {
  if (!checkpoints_.empty() && checkpoints_.back() == snapshot) return;
  // The first is kept: receivers are loaded from it.
  if (checkpoints_.size() == 8) checkpoints_.erase(checkpoints_.begin() + 1);
  checkpoints_.push_back(snapshot);
}

void fleet::move(bytes& weights) {
  const auto size = static_cast<std::size_t>(shape_.total_bytes());
  // Mostly a few elements; at times none, at times all.
  const auto kind = o_.tensors != 0 ? 1 : random_.below(16);
  const auto moved = kind == 0 ? 0 : kind == 1 ? size : 1 + random_.below(8);
  for (std::size_t i = 0; i < moved; ++i) {
    const auto at = moved == size ? i : random_.below(size);
    weights[at] = value_of(at, weights[at] != value_of(at, true));
  }
}

tensor_reader fleet::reader_of_sync(const weight_buffer& from, bool fails) const {
  return [&from, fails](std::size_t index) -> std::span<const std::byte> {
    if (fails) throw error(errc::bad_input, "on purpose");
    return from.tensor(index);
  };
}

/// What a trainer that holds `held` encodes: `weights`, or what is taken for them by mistake.
const weight_buffer& fleet::encoded_of(const weight_buffer& weights, weight_buffer& mistaken,
                                       const snapshot_store* held) const {
  if (o_.broken != variant::nan_mask || held == nullptr) return weights;
  const auto now = bytes_of(weights);
  const auto before =
      held->read([&](const tensor_views& part) { return laid_over(shape_, now, part); });
  mistaken = weight_buffer(shape_);
  copy_into(mistaken, compared_as_numbers(shape_, before, now));
  return mistaken;
}

time_point fleet::acts_from(const trainer_process& t) const {
  return std::max({scheduler_.now(), t.still_until, t.stages_from});
}

void fleet::sync(trainer_process& t, bool again) {
  if (!again) ++t.label;
  auto now = o_.ranks > 1 ? weights_at(t, t.label) : bytes_of(t.weights);
  if (o_.ranks == 1) move(now);
  copy_into(t.weights, now);
  t.sync_txn = {};
  t.sync_base = {};
  t.due = acts_from(t) + report_within(settings_);
  t.ticket = std::make_shared<ticket_state>(milliseconds(0));
  t.unreadable = dice_.strikes(fault_id::encode_fail);
  t.refused = false;
  const auto* s = actors_of(t).supervisor;
  const auto* held = s && s->trainer ? s->trainer->boot.store.get() : nullptr;
  auto tensors = reader_of_sync(encoded_of(t.weights, t.mistaken, held), t.unreadable);
  if (o_.ranks > 1) tensors = shard_reader(std::move(tensors), owned_by(0));
  trace_.line(trace_level::events,
              [&] { return name_of(t.where) + " wants sync " + std::to_string(t.label); });
  caf::anon_send(t.supervisor, sync_request{t.label, std::move(tensors), t.ticket});
  if (!dice_.strikes(fault_id::hurry)) return;
  scheduler_.in(milliseconds(dice_.below(fault_id::hurry, 3'000)), [this, &t, asked = t.ticket] {
    if (!t.up || t.ticket != asked) return dice_.miss(fault_id::hurry);
    trace_.line(trace_level::events, [&] { return name_of(t.where) + " has its next weights"; });
    t.due = std::min(t.due, acts_from(t) + prompt_within(settings_));
    caf::anon_send(t.supervisor, hurry_request{});
  });
}

void fleet::before_staging(trainer_process& t) {
  if (!dice_.strikes(fault_id::slow_stage)) return;
  const std::uint64_t most = dice_.below(fault_id::slow_stage, 8) == 0 ? 20'000 : 4'000;
  const auto wait = milliseconds(dice_.below(fault_id::slow_stage, most));
  t.stages_from = scheduler_.now() + wait;
  // Whatever else it is asked waits behind that.
  t.due += wait;
  scheduler_.in(wait, [this] { scheduler_.wake(); });
}

void fleet::before_staging(trainer_process& t, stage_request& m) {
  if (!m.delta || m.delta->buckets().empty() || !dice_.strikes(fault_id::refuse_delta)) return;
  encoded_delta damaged{m.delta->content(), m.delta->buckets()};
  auto& bucket = damaged.buckets[dice_.below(fault_id::refuse_delta, damaged.buckets.size())];
  std::vector<std::byte> flipped(bucket.data(), bucket.data() + bucket.size());
  const auto bit = dice_.below(fault_id::refuse_delta, flipped.size() * 8);
  flipped[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
  bucket = payload(std::move(flipped));
  m.delta = std::make_shared<delta_source>(std::move(damaged), m.delta->staged_over());
  t.refused |= m.txn == t.sync_txn;
}

// --- time ---------------------------------------------------------------------------------------

bool fleet::stand_still(endpoint where, std::chrono::nanoseconds wait) {
  const auto stop = [&](auto& process) {
    const auto now = scheduler_.now();
    // Whoever is stopped again and again without a moment in between does not run at all.
    if (!process.up || now < process.still_until + runs_for) return false;
    process.standing_still = true;
    process.still_until = now + wait;
    scheduler_.in(wait, [this, &process, until = process.still_until] {
      if (process.still_until != until) return;  // of another life
      process.standing_still = false;
      scheduler_.wake();
    });
    return true;
  };
  if (where < first_trainer) return stop(receivers_[where]);
  const bool stopped = is_rank(where) ? stop(rank_at(where)) : stop(trainer_at(where));
  if (!stopped) return false;
  if (!is_rank(where)) trainer_at(where).due += wait;
  // Whoever is linked to it gives it up.
  const auto silent = silence_max(settings_);
  if (connections_ && wait > silent)
    scheduler_.in(silent, [this, where] {
      if (is_still(where)) connections_->end_of(where);
    });
  return true;
}

void fleet::jump(std::chrono::nanoseconds by) {
  scheduler_.jump(by);
  for (auto& t : trainers_) {
    t.due += by;
    // To an end that looks at its clock first nothing has been heard for as long.
    if (connections_ && by >= silence_max(settings_) && random_.chance(1, 2))
      connections_->end_of(t.where);
  }
}

void fleet::lift_pauses() {
  const auto lift = [](auto& process) {
    process.standing_still = false;
    process.still_until = {};
  };
  std::ranges::for_each(receivers_, lift);
  std::ranges::for_each(trainers_, lift);
  for (auto& t : trainers_) t.stages_from = {};
  for (auto& t : trainers_) std::ranges::for_each(t.others, lift);
  scheduler_.wake();
}

// --- directory ----------------------------------------------------------------------------------

std::string fleet::name_of(endpoint where) const {
  if (is_rank(where)) {
    const auto at = where - first_rank;
    return "trainer-" + std::to_string(at / ranks_max + 1) + "/rank-" +
           std::to_string(at % ranks_max);
  }
  return where < first_trainer ? "receiver-" + std::to_string(where)
                               : "trainer-" + std::to_string(where - first_trainer + 1);
}

std::optional<address> fleet::address_of(const caf::strong_actor_ptr& actor) {
  auto* scheduled = dynamic_cast<caf::scheduled_actor*>(actor->get());
  if (!scheduled) return std::nullopt;
  const auto where = where_is(*scheduled);
  if (where == nowhere) return std::nullopt;
  const std::string_view name = scheduled->name();
  if (name == "receiver") return address{where, role::receiver, 0};
  if (name == "relay") return address{where, role::relay, 0};
  if (name == "supervisor" || name == "rank") return address{where, role::supervisor, 0};
  if (name == "join") return address{where, role::join, 0};
  if (name == "flusher") {
    const auto handle = caf::actor_cast<flusher_actor>(actor);
    const auto* s = state_of<flusher_actor, flusher_state>(handle);
    if (s) return address{where, role::flusher, s->id};
  }
  return std::nullopt;
}

caf::strong_actor_ptr fleet::resolve(const address& who) {
  const auto strong = [](const auto& handle) {
    return caf::actor_cast<caf::strong_actor_ptr>(handle);
  };
  if (!is_up(who.where)) return nullptr;
  if (who.where < first_trainer) {
    if (who.where >= receivers_.size()) return nullptr;
    const auto& r = receivers_[who.where];
    return who.what == role::relay ? strong(r.relay) : strong(r.actor);
  }
  if (is_rank(who.where)) return resolve_at_rank(who);
  const auto& t = trainers_[who.where - first_trainer];
  if (who.what == role::supervisor) return strong(t.supervisor);
  const auto* s = actors_of(t).supervisor;
  if (!s) return nullptr;
  if (who.what == role::join) return s->trainer ? strong(s->trainer->join) : nullptr;
  const auto it = s->children.find(who.flusher_of);
  return it == s->children.end() ? nullptr : strong(it->second.flusher);
}

endpoint fleet::door() {
  // A name that is still looked up as it was, now and then.
  if (trainers_.size() > 1 && random_.chance(1, 8))
    for (const auto& t : trainers_)
      if (t.up) return t.where;
  return trainers_.back().where;
}

bool fleet::is_up(endpoint where) const {
  if (is_rank(where)) return find_rank(where).up;
  return where < first_trainer ? receivers_.at(where).up : trainers_.at(where - first_trainer).up;
}

}  // namespace lockstep::sim
