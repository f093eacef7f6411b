#include "actors/receiver.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "actors/runtime_parts.hpp"

namespace lockstep {

/// The mask of these names; empty where it is of all tensors, which have one spelling.
static shard_mask part_named(const layout& shape, const std::vector<std::string>& names) {
  if (names.empty()) return {};
  auto taken = shard_of(shape, names);
  if (shard_layout(shape, taken).total_bytes() == 0)
    throw error(errc::wrong_layout, "the tensors to take have no bytes");
  if (std::ranges::count(taken, false) == 0) taken.clear();
  return taken;
}

receiver::receiver(runtime& on, layout shape, receiver_options options) : on_(on) {
  auto name = options.name.empty() ? "receiver-" + std::to_string(options.id) : options.name;
  auto taken = part_named(shape, options.tensors);
  engine_ = std::make_shared<engine>(options.id, std::move(name), std::move(shape),
                                     std::move(options.memory), std::move(options.hooks),
                                     std::move(options.faults), std::move(taken),
                                     std::move(options.device));
  if (!on_.inside().claim(engine_->id()))
    throw error(errc::bad_input,
                "a receiver with the id " + std::to_string(engine_->id()) + " is attached already");
  try {
    on_.inside().add(engine_);
  } catch (...) {
    on_.inside().unclaim(engine_->id());
    throw;
  }
}

receiver::~receiver() {
  while (attached_) {
    try {
      detach();
    } catch (const error& e) {
      on_.inside().env->log->error(e.what());
    }
  }
}

receiver_id receiver::id() const noexcept {
  return engine_->id();
}
const std::string& receiver::name() const noexcept {
  return engine_->name();
}
const layout& receiver::shape() const noexcept {
  return engine_->shape();
}
readiness receiver::state() const {
  return engine_->state_at(std::chrono::steady_clock::now());
}

void receiver::check_refused() const {
  if (const auto why = engine_->refusal())
    throw refused_error(why.reason, name() + ": refused by the trainer: " + why.detail);
}

bool receiver::wait_ready(std::uint64_t label, std::chrono::milliseconds timeout) const {
  return engine_->wait_ready(label, timeout);
}

std::span<const std::byte> receiver::tensor(std::size_t index) const {
  return engine_->tensor(index);
}

std::vector<std::byte> receiver::read(std::size_t index) const {
  return engine_->read(index);
}

void receiver::detach() {
  const std::lock_guard lock(detaching_);
  if (!attached_) return;
  if (!gone_.valid()) {
    auto done = std::make_shared<std::promise<void>>();
    gone_ = done->get_future();
    on_.inside().remove(id(), std::move(done));
  }
  if (gone_.wait_for(on_.inside().detach_patience) != std::future_status::ready)
    throw error(errc::timeout, name() + ": still at work on the weights, it cannot detach yet");
  attached_ = false;
  on_.inside().unclaim(id());
  readiness gone;
  gone.reason = errc::detached;
  engine_->publish(gone);
}

}  // namespace lockstep
