// The receivers of a simulated fleet: how they live, and what fails at them on purpose.
#include <algorithm>
#include <caf/send.hpp>

#include "sim/broken_weights.hpp"
#include "sim/fleet.hpp"
#include "weights/host_memory.hpp"

namespace lockstep::sim {

using std::chrono::milliseconds;

namespace {

/// One for each tensor that is taken, by its place.
std::string text_of(const shard_mask& taken) {
  std::string out;
  for (const bool is : taken) out += is ? '1' : '0';
  return out;
}

}  // namespace

/// What fails at a receiver on purpose, while bytes are staged and written.
class fleet::engine_faults final : public fault_source {
 public:
  explicit engine_faults(fleet& of) : fleet_(of) {}

  bool strikes(fault_kind kind, const transfer_ref& what, receiver_id who) override {
    const auto id = fault_of(kind);
    if (!id || !fleet_.dice_.strikes(*id)) return false;
    last_ = *id;
    if (kind == fault_kind::false_ok && fleet_.on_lie) fleet_.on_lie();
    // A bucket that comes too late to matter, or once more, is no failure. It is the first that is
    // struck.
    if (kind != fault_kind::corrupt_frame || fleet_.awaits(fleet_.receivers_[who], what.txn, 0))
      fleet_.note_failure(who, what.txn, *id);
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

  fleet& fleet_;
  fault_id last_ = fault_id::fail_middle;
};

std::shared_ptr<fault_source> fleet::faults_on_purpose() {
  return std::make_shared<engine_faults>(*this);
}

bool fleet::awaits(const receiver_process& r, txn_ref txn, std::uint32_t index) const {
  const auto* s = state_of_receiver(r);
  const envelope env{cluster_id, txn, r.inc};
  if (!s) return false;
  // What nobody has announced is kept, and looked at later.
  return s->machine->awaits(env, index) ||
         (txn > s->machine->summarize().fence && s->ahead.lacks(env, index));
}

/// One of as many as were asked for, or all. The random numbers of everything else stay what they
/// are without parts.
shard_mask fleet::part_of_receiver(const receiver_process& r) const {
  shard_mask out;
  // Few lives are configured otherwise than the one before.
  auto draw_of = mix(o_.seed, 0x9a27, r.id);
  for (unsigned life = 2; life <= r.lives; ++life)
    if (const auto next = mix(draw_of, life); next % 8 == 0) draw_of = next >> 3;
  const auto which = draw_of % (std::uint64_t{o_.parts} + 1);
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
  out.resume = [&r, life](version_ref version, std::uint64_t label) {
    if (r.lives != life) return;
    r.paused = false;
    r.was_told = true;
    r.told = version;
    r.told_label = label;
  };
  out.apply = [this, fails, &r, life](version_ref version, std::uint64_t label,
                                      std::span<const std::size_t> tensors) {
    fails(fault_id::fail_after);
    if (r.lives != life) return;
    r.written = true;
    r.written_version = version;
    r.written_label = label;
    if (o_.broken == variant::off_by_one)
      copy_into(r.memory, written_one_further(shape_, r.seen, bytes_of(r.memory)));
    const auto now = bytes_of(r.memory);
    std::size_t at = 0;
    for (std::size_t i = 0; i < r.memory.shape().count(); at += r.memory.tensor(i++).size())
      if (std::ranges::count(tensors, i) != 0)
        std::copy_n(now.begin() + static_cast<std::ptrdiff_t>(at), r.memory.tensor(i).size(),
                    r.loaded.begin() + static_cast<std::ptrdiff_t>(at));
  };
  out.readiness_changed = [this, &r, life](const readiness& state) {
    if (r.lives != life) return;
    // The broken front door hears only good news.
    if (o_.broken == variant::serve_torn && !state.ready) return;
    if (r.served.ready && state.reason == errc::lease_expired)
      count(state.ready ? consequence::served_stale : consequence::lease_ended);
    r.served = state;
    r.was_unready |= !state.ready;
  };
  return out;
}

/// Nobody but the ranks of a trainer knows whose a bucket is: all hear of it.
flusher_actor fleet::ranks_of(const receiver_process& r) {
  if (o_.ranks == 1) return {};
  return network_->handle_as<flusher_actor>(r.where, {first_trainer, role::doors, r.id});
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
                                      relay_dialer(dial), ranks_of(r));
  return {r.relay, relay_offer_msg{cluster_id, r.id, r.inc, "sim", r.where + 1}};
}

std::shared_ptr<engine> fleet::engine_of(receiver_process& r) {
  std::vector<std::span<std::byte>> memory;
  for (std::size_t i = 0; i < shape_.count(); ++i)
    memory.push_back(r.takes(i) ? r.memory.tensor(i) : std::span<std::byte>());
  r.undigested = nullptr;
  if (o_.digests)
    return std::make_shared<engine>(r.id, name_of(r.where), shape_, std::move(memory), hooks_of(r),
                                    faults_, r.taken);
  tensor_spans tensors;
  for (std::size_t i = 0; i < shape_.count(); ++i)
    tensors.push_back({{memory[i].data(), memory[i].size()}, unit_bytes(shape_[i].type)});
  auto weights =
      std::make_unique<undigested_memory>(std::make_unique<host_memory>(std::move(tensors)));
  r.undigested = weights.get();
  return std::make_shared<engine>(r.id, name_of(r.where), shape_, std::move(weights), hooks_of(r),
                                  faults_, r.taken);
}

void fleet::begin_life(receiver_process& r) {
  if (r.up || !r.wanted) return;
  ++r.lives;
  r.taken = part_of_receiver(r);
  r.up = true;
  r.standing_still = false;
  r.still_until = {};
  r.served = {};
  r.fence_run = 0;
  r.attached = {};
  r.kept.reset();
  r.proven.clear();
  r.highest = r.fleet = {};
  r.rotten = r.paused = r.was_told = false;
  r.seen = r.loaded = bytes_of(r.memory);
  r.heard = scheduler_.now();
  auto env = env_of(r.where, r.lives);
  r.inc = o_.broken == variant::no_incarnation ? incarnation{1, r.id + std::uint64_t{1}}
                                               : incarnation{env->entropy(), env->entropy()};
  r.bytes_of_life = engine_of(r);
  auto side = relay_of(r, env);
  network_->begin_life(r.where);
  r.actor = scheduler_.system().spawn(
      receiver_behavior, std::move(env), r.bytes_of_life, r.inc,
      network_->handle_as<supervisor_actor>(r.where, {first_trainer, role::door, 0}),
      std::move(side));
  trace_.line(trace_level::events, [&] {
    auto out = name_of(r.where) + (r.lives == 1 ? " starts" : " starts again");
    if (!r.taken.empty()) out += ", takes " + text_of(r.taken);
    return out;
  });
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
      now[at] = value_of(at, mix(chance, left, 1) % 2 != 0);
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
  r.left = scheduler_.now();
  crash(r, 0);
}

}  // namespace lockstep::sim
