#include "rollout_engine.hpp"

#include <algorithm>
#include <chrono>
#include <span>
#include <stdexcept>
#include <string>

namespace embedded_rl {

namespace {

using namespace std::chrono_literals;

/// Longer than any recovery; without it a fleet that is lost would look like one that is slow.
constexpr auto patience = 60s;

}  // namespace

step_gate::pass step_gate::enter() {
  std::unique_lock lock(mutex_);
  if (!opened_.wait_for(lock, patience, [&] { return !closed_; }))
    throw std::runtime_error("the engine stays paused");
  return {std::move(lock), label_};
}

void step_gate::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
}

void step_gate::open(std::uint64_t label) {
  {
    const std::lock_guard lock(mutex_);
    closed_ = false;
    label_ = label;
  }
  opened_.notify_all();
}

rollout_engine::rollout_engine(lockstep::runtime& on, lockstep::receiver_id id,
                               std::shared_ptr<lockstep::fault_plan> faults)
    : id_(id), receiver_(on, policy_layout(), receiver_options(std::move(faults))) {}

lockstep::receiver_options rollout_engine::receiver_options(
    std::shared_ptr<lockstep::fault_plan> faults) {
  lockstep::receiver_options out;
  out.id = id_;
  out.name = "engine-" + std::to_string(id_);
  for (auto& tensor : weights_.tensors)
    out.memory.push_back(std::as_writable_bytes(std::span(tensor)));
  out.hooks.pause = [this] { gate_.close(); };
  out.hooks.resume = [this](lockstep::version_ref, std::uint64_t label) { gate_.open(label); };
  out.faults = std::move(faults);
  return out;
}

std::future<rollout> rollout_engine::play(order what) {
  return std::async(std::launch::async, [this, what] { return play_now(what); });
}

rollout rollout_engine::play_now(const order& what) {
  if (!receiver_.wait_ready(what.label, patience))
    throw std::runtime_error(receiver_.name() +
                             " is not ready: " + std::string(to_string(receiver_.state().reason)));
  rollout out{UINT64_MAX, {}};
  random_stream chance{what.seed, what.step, id_};
  for (int t = 0; t < tasks_per_engine; ++t) {
    const grid_world task(chance);
    auto& attempts = out.groups.emplace_back();
    for (int a = 0; a < attempts_per_task; ++a)
      attempts.push_back(attempt(task, chance, out.oldest_label));
  }
  return out;
}

episode rollout_engine::attempt(grid_world world, random_stream& chance,
                                std::uint64_t& oldest_label) {
  episode out;
  while (!world.over()) {
    const auto seen = world.observe();
    out.decisions.push_back({seen, decide(seen, chance, oldest_label)});
    world.move(out.decisions.back().action);
  }
  out.total_reward = world.total_reward();
  return out;
}

std::size_t rollout_engine::decide(const observation& seen, random_stream& chance,
                                   std::uint64_t& oldest_label) {
  const auto pass = gate_.enter();
  oldest_label = std::min(oldest_label, pass.label);
  return sample(forward(weights_, seen), chance);
}

}  // namespace embedded_rl
