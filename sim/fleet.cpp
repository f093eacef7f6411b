#include "sim/fleet.hpp"

#include <spdlog/logger.h>
#include <spdlog/sinks/null_sink.h>

#include <algorithm>
#include <caf/send.hpp>
#include <cstring>

namespace lockstep::sim {

using std::chrono::milliseconds;

namespace {

constexpr std::uint64_t cluster_id = 77;

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

void copy_into(weight_buffer& w, const bytes& from) {
  std::size_t at = 0;
  for (std::size_t i = 0; i < w.shape().count(); ++i) {
    const auto tensor = w.tensor(i);
    if (!tensor.empty()) std::memcpy(tensor.data(), from.data() + at, tensor.size());
    at += tensor.size();
  }
}

/// One of two values for each byte of the model: weights that move go back and forth between them,
/// so that a change which is undone one step later is as common as any.
std::byte value_of(std::uint64_t seed, std::size_t position, bool which) {
  return static_cast<std::byte>(mix(seed, position, which ? 1 : 2));
}

}  // namespace

bytes bytes_of(const weight_buffer& w) {
  bytes out;
  out.reserve(static_cast<std::size_t>(w.shape().total_bytes()));
  for (std::size_t i = 0; i < w.shape().count(); ++i) {
    const auto tensor = w.tensor(i);
    out.insert(out.end(), tensor.begin(), tensor.end());
  }
  return out;
}

bytes bytes_of(const tensor_views& views) {
  bytes out;
  for (const auto& view : views)
    out.insert(out.end(), view.bytes.data, view.bytes.data + view.bytes.size);
  return out;
}

bool holds(const weight_buffer& w, const bytes& what) {
  std::size_t at = 0;
  for (std::size_t i = 0; i < w.shape().count(); ++i) {
    const auto tensor = w.tensor(i);
    if (!tensor.empty() && std::memcmp(tensor.data(), what.data() + at, tensor.size()) != 0)
      return false;
    at += tensor.size();
  }
  return true;
}

bool holds(const receiver_process& r, const bytes& what) {
  std::size_t at = 0;
  for (std::size_t i = 0; i < r.memory.shape().count(); ++i) {
    const auto tensor = r.memory.tensor(i);
    const bool counts = !tensor.empty() && (r.taken.empty() || r.taken[i]);
    if (counts && std::memcmp(tensor.data(), what.data() + at, tensor.size()) != 0) return false;
    at += tensor.size();
  }
  return true;
}

bool holds(const tensor_views& views, const bytes& what) {
  std::size_t at = 0;
  for (const auto& view : views) {
    if (view.bytes.size != 0 &&
        std::memcmp(view.bytes.data, what.data() + at, view.bytes.size) != 0)
      return false;
    at += view.bytes.size;
  }
  return true;
}

/// What fails at a receiver on purpose, while bytes are staged and written.
class fleet::engine_faults final : public fault_source {
 public:
  explicit engine_faults(fleet& of) : fleet_(of) {}

  bool strikes(fault_kind kind, std::uint64_t, txn_ref txn, receiver_id who) override {
    const auto id = fault_of(kind);
    if (!id || !fleet_.dice_.strikes(*id)) return false;
    last_ = *id;
    if (kind == fault_kind::false_ok && fleet_.on_lie) fleet_.on_lie();
    if (kind != fault_kind::corrupt_frame || awaits(who, txn)) fleet_.note_failure(who, txn, *id);
    return true;
  }
  double share_written() override { return static_cast<double>(fleet_.dice_.below(last_, 5)) / 4; }

 private:
  static std::optional<fault_id> fault_of(fault_kind kind) {
    switch (kind) {
      case fault_kind::stage_fail:
        return fault_id::stage_full;
      case fault_kind::apply_fail:
        return fault_id::fail_middle;
      case fault_kind::crash:
        return fault_id::crash_writing;
      case fault_kind::corrupt_frame:
        return fault_id::refuse_frame;
      case fault_kind::false_ok:
        return fault_id::lie;
      case fault_kind::no_reply:
        break;  // the network's to lose
    }
    return std::nullopt;
  }

  /// A bucket that comes too late to matter, or once more, is no failure. It is the first that is
  /// struck.
  bool awaits(receiver_id who, txn_ref txn) const {
    const auto* s = fleet_.state_of_receiver(fleet_.receivers_[who]);
    const auto slot = s ? s->machine->summarize().slot : std::nullopt;
    return slot && slot->txn == txn && !slot->staged && !s->bytes->keeps(0);
  }

  fleet& fleet_;
  fault_id last_ = fault_id::fail_middle;
};

fleet::fleet(const run_options& o, scheduler& on, dice& chance, trace& log)
    : o_(o),
      scheduler_(on),
      dice_(chance),
      trace_(log),
      random_(mix(o.seed, 0xf1ee7)),
      shape_(o.tensors != 0 ? model_of(o.tensors) : small_model()),
      log_(std::make_shared<spdlog::logger>("simulation",
                                            std::make_shared<spdlog::sinks::null_sink_st>())),
      faults_(std::make_shared<engine_faults>(*this)) {
  log_->set_level(spdlog::level::off);
  choose_settings();
}

fleet::~fleet() = default;

void fleet::choose_settings() {
  auto& s = settings_;
  s.sync.stage_timeout_ms = s.sync.commit_timeout_ms = 1000;
  s.sync.attach_timeout_ms = s.sync.full_timeout_ms = 1000;
  s.sync.recovery_timeout_ms = 8000;
  s.sync.members_min = random_.chance(1, 8) ? o_.receivers : 1;
  s.sync.reseed = random_.chance(1, 4) ? reseed_scope::all : reseed_scope::failed;
  s.sync.commit_resend_max = static_cast<std::uint32_t>(random_.below(3));
  s.sync.redo_max = static_cast<std::uint32_t>(random_.below(3));
  // Below what the table allows, so that a model of a few bytes fills several.
  s.bucket.bytes_max = 170;
  s.receiver.staged_bytes_max = 512;
  s.bucket.credit = static_cast<std::uint32_t>(1 + random_.below(3));
  s.receiver.ping_ms = 1000;
  s.receiver.lease_ms = 5000;
  s.supervision.backoff_ms_max = 1000;
  s.supervision.attempts_max = random_.chance(3, 10) ? 2 : 1000;
  s.supervision.restart_max = 1000;
  // None, some steps, about a dozen.
  s.sync.history_percent = static_cast<std::uint32_t>(mix(o_.seed, 0x415) % 3) * 400;
  s.transport.fanout = o_.fanout;
  s.transport.relay_stall_ms = 200;
  s.transport.relay_backoff_ms = 2'000;
  if (o_.tensors == 0) return;
  s.sync.stage_timeout_ms = s.sync.full_timeout_ms = 3'600'000;
  s.sync.reseed = reseed_scope::failed;
  s.sync.members_min = 1;
  s.bucket.bytes_max = 16 << 10;
  s.bucket.credit = 8;
  s.receiver.staged_bytes_max = 1 << 30;
  // A queue on links this narrow is nobody's fault.
  s.transport.relay_stall_ms = settings{}.transport.relay_stall_ms;
  s.sync.link_bytes_per_s = o_.link_bytes_per_s;
}

void fleet::start(network& net) {
  network_ = &net;
  weight_buffer first(shape_);
  bytes values(static_cast<std::size_t>(shape_.total_bytes()));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = value_of(o_.seed, i, true);
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
  return known == 0 ? nowhere : known - 1;
}

receiver_process* fleet::receiver_of(const caf::scheduled_actor& actor) {
  const auto where = where_is(actor);
  return where < receivers_.size() ? &receivers_[where] : nullptr;
}

trainer_process* fleet::trainer_of(const caf::scheduled_actor& actor) {
  const auto where = where_is(actor);
  if (where == nowhere || where < first_trainer) return nullptr;
  return &trainers_[where - first_trainer];
}

receiver_process* fleet::life(const participant& who) {
  for (auto& r : receivers_)
    if (r.up && r.id == who.id && r.inc == who.inc) return &r;
  return nullptr;
}

// --- receivers ----------------------------------------------------------------------------------

/// One of as many as were asked for, or all. The random numbers of everything else stay what they
/// are without parts.
shard_mask fleet::part_of_receiver(receiver_id id) const {
  shard_mask out;
  const auto which = mix(o_.seed, 0x9a27, id) % (std::uint64_t{o_.parts} + 1);
  if (which == 0) return out;
  for (std::uint64_t draw = 0; out.empty(); ++draw) {
    for (std::size_t i = 0; i < shape_.count(); ++i)
      out.push_back(mix(mix(o_.seed, which, draw), i) % 2 != 0);
    const bool proper = std::ranges::count(out, false) != 0;
    if (!proper || shard_layout(shape_, out).total_bytes() == 0) out.clear();
  }
  return out;
}

receiver_process& fleet::add_receiver() {
  auto& r = receivers_.emplace_back();
  r.where = static_cast<endpoint>(receivers_.size() - 1);
  r.id = r.where;
  r.taken = part_of_receiver(r.id);
  r.memory = weight_buffer(shape_);
  r.checkpoint = checkpoints_.front();
  // Most are loaded from the checkpoint that the trainer began with, some from another.
  if (random_.chance(3, 10))
    for (auto& b : r.checkpoint) b ^= static_cast<std::byte>(random_() & random_() & 0xff);
  copy_into(r.memory, r.checkpoint);
  return r;
}

receiver_hooks fleet::hooks_of(receiver_process& r) {
  receiver_hooks out;
  const auto life = r.lives;
  const auto fails = [this, &r](fault_id id) {
    if (!dice_.strikes(id)) return;
    const auto* s = state_of_receiver(r);
    if (s) note_failure(r.id, s->machine->summarize().fence, id);
    throw std::runtime_error("on purpose");
  };
  out.pause = [fails, &r, life] {
    fails(fault_id::fail_before);
    if (r.lives == life) r.paused = r.was_paused = true;
  };
  out.resume = [&r, life](version_ref, std::uint64_t) {
    if (r.lives == life) r.paused = false;
  };
  out.apply = [fails](version_ref, std::uint64_t, std::span<const std::size_t>) {
    fails(fault_id::fail_after);
  };
  out.readiness_changed = [this, &r, life](const readiness& state) {
    if (r.lives != life) return;
    // The broken front door hears only good news.
    if (o_.broken == variant::serve_torn && !state.ready) return;
    r.served = state;
    r.was_unready |= !state.ready;
  };
  return out;
}

std::function<std::uint64_t()> fleet::entropy_of(endpoint where, std::uint64_t life) {
  return [draw = random_stream(mix(o_.seed, where, life))]() mutable { return draw(); };
}

std::shared_ptr<const actor_env> fleet::env_of(endpoint where, std::uint64_t life) {
  auto env = std::make_shared<actor_env>();
  env->options = settings_;
  env->cluster = cluster_id;
  env->entropy = entropy_of(where, life);
  env->log = log_;
  return env;
}

/// Others find it at the number of its process.
relay_side fleet::relay_of(receiver_process& r, const std::shared_ptr<const actor_env>& env) {
  if (o_.fanout == 0) return {};
  const auto dial = [this, where = r.where](const relay_actor& me, const relay_parent_msg& order) {
    const address parent{static_cast<endpoint>(order.port - 1), role::relay, 0};
    caf::anon_send(me,
                   relay_dialed{order.order, network_->handle_as<relay_actor>(where, parent), {}});
  };
  r.relay = scheduler_.system().spawn(relay_behavior, env, r.id, name_of(r.where), r.inc,
                                      relay_dialer(dial), flusher_actor());
  return {r.relay, relay_offer_msg{cluster_id, r.id, r.inc, "sim", r.where + 1}};
}

void fleet::begin_life(receiver_process& r) {
  if (r.up || !r.wanted) return;
  ++r.lives;
  r.up = true;
  r.standing_still = false;
  r.served = {};
  r.fence_run = 0;
  r.proven.clear();
  r.highest = r.fleet = {};
  r.rotten = r.paused = false;
  r.seen = bytes_of(r.memory);
  auto env = env_of(r.where, r.lives);
  r.inc = o_.broken == variant::no_incarnation ? incarnation{1, r.id + std::uint64_t{1}}
                                               : incarnation{env->entropy(), env->entropy()};
  std::vector<std::span<std::byte>> memory;
  for (std::size_t i = 0; i < shape_.count(); ++i)
    memory.push_back(r.taken.empty() || r.taken[i] ? r.memory.tensor(i) : std::span<std::byte>());
  r.bytes_of_life = std::make_shared<engine>(r.id, name_of(r.where), shape_, std::move(memory),
                                             hooks_of(r), faults_, r.taken);
  auto side = relay_of(r, env);
  r.actor = scheduler_.system().spawn(
      receiver_behavior, std::move(env), r.bytes_of_life, r.inc,
      network_->handle_as<supervisor_actor>(r.where, {first_trainer, role::door, 0}),
      std::move(side));
  trace_.line(trace_level::events,
              [&] { return name_of(r.where) + (r.lives == 1 ? " starts" : " starts again"); });
}

void fleet::ended(receiver_process& r, std::uint64_t chance) {
  r.up = false;
  r.actor = nullptr;
  if (r.relay) stop_actor(std::exchange(r.relay, {}));
  r.standing_still = false;
  r.served = {};
  const char* fate = "its bytes as they are";
  const auto size = static_cast<std::size_t>(shape_.total_bytes());
  if (chance % 3 == 1) {
    fate = "torn bytes";
    auto now = bytes_of(r.memory);
    for (auto left = 1 + chance / 3 % 4; left > 0; --left) {
      const auto at = mix(chance, left) % size;
      now[at] = value_of(o_.seed, at, mix(chance, left, 1) % 2 != 0);
    }
    copy_into(r.memory, now);
  } else if (chance % 3 == 2) {
    fate = "the checkpoint";
    copy_into(r.memory, r.checkpoint);
  }
  trace_.line(trace_level::events,
              [&] { return name_of(r.where) + " has ended; it will find " + fate; });
  const auto wait = milliseconds(1 + mix(chance, 7) % 3000);
  scheduler_.in(wait, [this, &r] { begin_life(r); });
  // Half of the time the connection's end is noticed.
  if (mix(chance, 9) % 2 == 0) network_->break_handles(r.where);
}

void fleet::crash(receiver_process& r, std::uint64_t chance) {
  if (!r.up) return;
  r.up = false;  // nothing of its last step is heard
  stop_actor(r.actor);
  ended(r, chance);
}

void fleet::leave(receiver_process& r) {
  if (!r.up) return;
  network_->say(r.where, {first_trainer, role::door, 0}, goodbye_msg{cluster_id, r.id, r.inc});
  r.wanted = false;
  crash(r, 0);
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
  t.store = std::make_shared<snapshot_store>(shape_, reader_of(t.weights), t.label,
                                             settings_.sync.history_percent);
  t.supervisor = scheduler_.system().spawn(supervisor_behavior, env_of(t.where, 0));
  caf::anon_send(t.supervisor, boot_request{t.run, t.store, nullptr});
  trace_.line(trace_level::events,
              [&] { return name_of(t.where) + " starts as run " + std::to_string(t.run); });
  return t;
}

void fleet::crash(trainer_process& t) {
  if (!t.up) return;
  const auto* s = actors_of(t).supervisor;
  t.up = false;
  if (s) {
    if (s->trainer) {
      stop_actor(s->trainer->sender);
      stop_actor(s->trainer->join);
      stop_actor(s->trainer->snapshot);
    }
    for (const auto& [id, c] : s->children) stop_actor(c.flusher);
  }
  stop_actor(t.supervisor);
  t.standing_still = false;
  trace_.line(trace_level::events, [&] { return name_of(t.where) + " has ended"; });
}

void fleet::kill_one_actor(trainer_process& t, std::uint64_t chance) {
  const auto* s = actors_of(t).supervisor;
  if (!s || !s->trainer) return;
  std::vector<std::pair<const char*, caf::actor>> all{
      {"sender", caf::actor_cast<caf::actor>(s->trainer->sender)},
      {"join", caf::actor_cast<caf::actor>(s->trainer->join)},
      {"snapshot", caf::actor_cast<caf::actor>(s->trainer->snapshot)}};
  for (const auto& [id, c] : s->children)
    if (c.flusher) all.emplace_back("flusher", caf::actor_cast<caf::actor>(c.flusher));
  const auto& [name, actor] = all[chance % all.size()];
  trace_.line(trace_level::events,
              [&, what = name] { return name_of(t.where) + ": its " + what + " ends"; });
  caf::anon_send_exit(actor, caf::exit_reason::kill);
}

void fleet::remember(const bytes& snapshot) {
  if (!checkpoints_.empty() && checkpoints_.back() == snapshot) return;
  // The first is kept: receivers are loaded from it.
  if (checkpoints_.size() == 8) checkpoints_.erase(checkpoints_.begin() + 1);
  checkpoints_.push_back(snapshot);
}

void fleet::train(trainer_process& t) {
  const auto size = static_cast<std::size_t>(shape_.total_bytes());
  auto now = bytes_of(t.weights);
  // Mostly a few elements; at times none, at times all.
  const auto kind = o_.tensors != 0 ? 1 : random_.below(16);
  const auto moved = kind == 0 ? 0 : kind == 1 ? size : 1 + random_.below(8);
  for (std::size_t i = 0; i < moved; ++i) {
    const auto at = moved == size ? i : random_.below(size);
    now[at] = value_of(o_.seed, at, now[at] != value_of(o_.seed, at, true));
  }
  copy_into(t.weights, now);
}

void fleet::sync(trainer_process& t) {
  train(t);
  ++t.label;
  t.sync_txn = {};
  t.ticket = std::make_shared<ticket_state>(milliseconds(0));
  const bool fails = dice_.strikes(fault_id::encode_fail);
  tensor_reader tensors = [&t, fails](std::size_t index) -> std::span<const std::byte> {
    if (fails) throw error(errc::bad_input, "on purpose");
    return std::as_const(t.weights).tensor(index);
  };
  trace_.line(trace_level::events,
              [&] { return name_of(t.where) + " wants sync " + std::to_string(t.label); });
  caf::anon_send(t.supervisor, sync_request{t.label, std::move(tensors), t.ticket});
}

// --- time ---------------------------------------------------------------------------------------

void fleet::stand_still(endpoint where, std::chrono::nanoseconds wait) {
  const auto set = [this, where](bool still) {
    if (where < first_trainer) {
      receivers_[where].standing_still = still && receivers_[where].up;
    } else {
      auto& t = trainers_[where - first_trainer];
      t.standing_still = still && t.up;
    }
  };
  set(true);
  scheduler_.in(wait, [this, set] {
    set(false);
    scheduler_.wake();
  });
}

void fleet::lift_pauses() {
  for (auto& r : receivers_) r.standing_still = false;
  for (auto& t : trainers_) t.standing_still = false;
  scheduler_.wake();
}

// --- directory ----------------------------------------------------------------------------------

std::string fleet::name_of(endpoint where) const {
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
  if (name == "supervisor") return address{where, role::supervisor, 0};
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
  return where < first_trainer ? receivers_.at(where).up : trainers_.at(where - first_trainer).up;
}

}  // namespace lockstep::sim
