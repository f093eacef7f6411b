// Decides what the tests of the embedding interface run on: one small model, and a trainer with
// receivers on one runtime.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "actors/receiver.hpp"
#include "actors/trainer.hpp"
#include "tests/support/on_device.hpp"

namespace lockstep {

using namespace std::chrono_literals;

inline layout small_layout() {
  return layout({{"a", dtype::bf16, {64, 64}},
                 {"b", dtype::f32, {17}},
                 {"c", dtype::u8, {0}},
                 {"d", dtype::f8_e4m3, {1000}}});
}

inline weight_buffer random_weights(const layout& shape, unsigned seed) {
  weight_buffer out(shape);
  std::mt19937 rng(seed);
  for (std::size_t i = 0; i < shape.count(); ++i)
    for (auto& b : out.tensor(i)) b = static_cast<std::byte>(rng());
  return out;
}

/// A training step: about every fiftieth byte is drawn anew.
inline void step(weight_buffer& w, unsigned seed) {
  std::mt19937 rng(seed);
  for (std::size_t i = 0; i < w.shape().count(); ++i)
    for (auto& b : w.tensor(i))
      if (rng() % 50 == 0) b = static_cast<std::byte>(rng());
}

inline std::vector<std::byte> tensor_of(const receiver& r, std::size_t index) {
  return r.read(index);
}
template <class Holder>
std::span<const std::byte> tensor_of(const Holder& held, std::size_t index) {
  return held.tensor(index);
}

template <class Holder>
bool same(const Holder& held, const weight_buffer& w) {
  for (std::size_t i = 0; i < w.shape().count(); ++i)
    if (w.shape().bytes(i) != 0 &&
        std::memcmp(tensor_of(held, i).data(), w.tensor(i).data(), w.shape().bytes(i)) != 0)
      return false;
  return true;
}

using tensor_names = std::vector<std::string>;

/// What it takes is what the trainer has, nothing else is there, and it serves.
template <class Receiver>
bool holds_part(const Receiver& r, const weight_buffer& w, const tensor_names& tensors) {
  for (std::size_t i = 0; i < w.shape().count(); ++i) {
    const bool taken = std::ranges::count(tensors, w.shape()[i].name) != 0;
    const auto held = tensor_of(r, i);
    const auto wanted = w.tensor(i);
    if (held.size() != (taken ? wanted.size() : 0)) return false;
    if (taken && !std::equal(wanted.begin(), wanted.end(), held.begin())) return false;
  }
  return r.state().ready;
}

inline settings quiet() {
  settings s;
  s.log.level = log_level::off;
  s.supervision.backoff_ms = 1;
  return s;
}

/// Memory that the test owns and the receiver writes.
inline std::vector<std::span<std::byte>> memory_of(weight_buffer& w) {
  std::vector<std::span<std::byte>> out;
  for (std::size_t i = 0; i < w.shape().count(); ++i) out.push_back(w.tensor(i));
  return out;
}

struct fleet {
  explicit fleet(const settings& s = quiet(), layout shape = small_layout())
      : rt(s), t(rt, shape), w(random_weights(shape, 1)) {}

  receiver& add(receiver_options options = {}) {
    if (options.id == 0) options.id = static_cast<receiver_id>(rx.size());
    rx.push_back(std::make_unique<receiver>(rt, w.shape(), placed(std::move(options), w.shape())));
    return *rx.back();
  }

  /// Seeds, and waits until all receivers are members.
  bool seed(std::uint64_t label = 0) {
    t.seed(w, label);
    return t.wait_for_members(rx.size(), 10s);
  }

  /// Trains one step and syncs.
  sync_report sync(unsigned label) {
    step(w, label);
    return t.sync(label, w).wait();
  }

  bool all_hold(const weight_buffer& weights) const {
    for (const auto& r : rx)
      if (!same(*r, weights) || !r->state().ready) return false;
    return true;
  }

  receiver_status status(receiver_id id) const {
    for (auto& s : t.receivers())
      if (s.id == id) return s;
    return {};
  }

  /// Waits until receiver `id` stands as `standing`.
  bool wait_standing(receiver_id id, std::string_view standing) const {
    for (int i = 0; i < 2000; ++i) {
      if (status(id).standing == standing) return true;
      std::this_thread::sleep_for(5ms);
    }
    return false;
  }

  runtime rt;
  trainer t;
  weight_buffer w;
  std::vector<std::unique_ptr<receiver>> rx;
};

}  // namespace lockstep
