// Decides how tests drive a receiver without actors: the real machine on the real engine, over
// memory with canaries round every tensor.
#pragma once

#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "actors/engine.hpp"
#include "messages/wire.hpp"
#include "protocol/receiver_fsm.hpp"
#include "tests/support/on_device.hpp"

namespace lockstep {

/// The memory of one engine: every tensor between bytes that nobody may write.
class guarded_memory {
 public:
  explicit guarded_memory(const weight_buffer& content) : shape_(content.shape()) {
    for (std::size_t i = 0; i < shape_.count(); ++i) {
      bytes_.resize(bytes_.size() + guard, canary);
      starts_.push_back(bytes_.size());
      bytes_.insert(bytes_.end(), content.tensor(i).begin(), content.tensor(i).end());
    }
    bytes_.resize(bytes_.size() + guard, canary);
  }

  using spans = std::vector<std::span<std::byte>>;

  spans tensors() {
    spans out;
    for (std::size_t i = 0; i < starts_.size(); ++i)
      out.emplace_back(bytes_.data() + starts_[i], static_cast<std::size_t>(shape_.bytes(i)));
    return out;
  }

  void reset(const guarded_memory& to) {
    std::memcpy(bytes_.data(), to.bytes_.data(), bytes_.size());
  }

  /// Byte for byte, canaries included.
  bool operator==(const guarded_memory& other) const { return bytes_ == other.bytes_; }

  bool canaries_alive() const {
    std::size_t at = 0;
    for (std::size_t i = 0; i <= starts_.size(); ++i) {
      for (std::size_t k = 0; k < guard; ++k)
        if (bytes_[at + k] != canary) return false;
      if (i < starts_.size()) at = starts_[i] + static_cast<std::size_t>(shape_.bytes(i));
    }
    return true;
  }

 private:
  static constexpr std::size_t guard = 64;
  static constexpr std::byte canary{0xa5};

  layout shape_;
  std::vector<std::byte> bytes_;
  std::vector<std::size_t> starts_;
};

/// A receiver as docs/protocol.md has it, in one thread and without a clock.
class bare_receiver {
 public:
  static constexpr std::uint64_t cluster = 9;
  static constexpr incarnation me{5, 6};

  explicit bare_receiver(const weight_buffer& content)
      : memory(content),
        bytes(7, "bare", content.shape(), on_device() ? guarded_memory::spans() : memory.tensors(),
              {}, nullptr, {},
              on_device() ? lent_to(std::make_shared<emulated_device>(), memory.tensors())
                          : device_weights()),
        machine({cluster, 7, me, content.shape().fingerprint(), content.shape().total_bytes()},
                {}) {}

  /// The number of actions that it led to.
  std::size_t deliver(const wire_message& m) {
    const auto before = actions;
    std::visit([this](const auto& x) { hear(x); }, m);
    return actions - before;
  }

  /// Performs what was held back by `hold`.
  void release() {
    hold = false;
    if (auto held = std::exchange(held_, std::nullopt)) run({std::move(*held)});
  }

  guarded_memory memory;
  engine bytes;
  receiver_fsm machine;

  bool hold = false;       ///< holds back what writes a delta, as a slow engine does
  bool interrupt = false;  ///< the next delta is written in part only
  std::vector<txn_ref> written;
  std::vector<reply_msg> replies;
  std::size_t actions = 0;

 private:
  void hear(const attach_msg& m) { run(machine.on_attach(now_, m)); }
  void hear(const full_begin_msg& m) { run(machine.on_full_begin(now_, m)); }
  void hear(const prepare_msg& m) { run(machine.on_prepare(now_, m)); }
  void hear(const bucket_msg& m) {
    arrived_ = m.bytes;
    run(machine.on_bucket(now_, m.env, m.index, m.bytes.size(), hash_of(m.bytes)));
  }
  void hear(const commit_msg& m) { run(machine.on_commit(now_, m)); }
  void hear(const abort_msg& m) { run(machine.on_abort(now_, m)); }
  void hear(const redo_msg& m) { run(machine.on_redo(now_, m)); }
  void hear(const ping_msg& m) { run(machine.on_ping(now_, m)); }
  void hear(const auto&) {}  // not for receivers

  void run(receiver_fsm::actions list) {
    for (auto& action : list) {
      ++actions;
      if (hold && std::holds_alternative<receiver_action::apply_slot>(action)) {
        held_ = std::move(action);
        continue;
      }
      std::visit([this](auto& a) { perform(a); }, action);
    }
  }

  void perform(receiver_action::pause&) { bytes.pause(); }
  void perform(receiver_action::announce&) {}
  void perform(receiver_action::keep_bucket& a) {
    if (machine.summarize().slot.value().kind == receiver_fsm::slot_kind::redo)
      bytes.keep(a.index, arrived_);
    else
      bytes.stage(a.index, arrived_, std::uint64_t{1} << 30);
  }
  void perform(receiver_action::drop_slot&) { bytes.drop(); }
  void perform(receiver_action::verify_slot& a) {
    auto result = bytes.verify(a.base, a.target);
    run(machine.on_verified(a.txn, result.reason, std::move(result.detail)));
  }
  void perform(receiver_action::check_slot& a) {
    auto result = bytes.check();
    run(machine.on_verified(a.txn, result.reason, std::move(result.detail)));
  }
  void perform(receiver_action::apply_slot& a) {
    written.push_back(a.txn);
    const auto share = std::exchange(interrupt, false) ? std::optional(0.5) : std::nullopt;
    finish(a.txn, a.challenge, bytes.apply(a.target, share));
  }
  void perform(receiver_action::write_bucket& a) {
    written.push_back(a.txn);
    auto failed = bytes.write_full(arrived_);
    run(failed ? machine.on_write_failed(a.txn, failed.reason, std::move(failed.detail))
               : machine.on_bucket_written(a.txn, a.index));
  }
  void perform(receiver_action::finish_full& a) {
    written.push_back(a.txn);
    finish(a.txn, a.challenge, bytes.finish_full(a.target));
  }
  void finish(txn_ref txn, std::uint64_t challenge, engine::failure failed) {
    if (failed) return run(machine.on_write_failed(txn, failed.reason, std::move(failed.detail)));
    const auto [held, proof] = bytes.digests_now(challenge);
    run(machine.on_applied(txn, held, proof));
  }
  void perform(receiver_action::compute_digest& a) {
    const auto [held, proof] = bytes.digests_now(a.challenge);
    run(machine.on_digest(a.txn, held, proof));
  }
  void perform(receiver_action::resume& a) {
    std::string complaint;
    bytes.resume(a.target, complaint);
  }
  void perform(receiver_action::publish& a) { bytes.publish(a.state); }
  void perform(receiver_action::reply& a) { replies.push_back(std::move(a.message)); }
  void perform(receiver_action::pong&) {}
  void perform(receiver_action::grant_credit&) {}

  time_point now_{};
  payload arrived_;
  std::optional<receiver_action::any> held_;
};

}  // namespace lockstep
