// Decides what the tests of a trainer of several processes stand on, each with its part of the
// model: here, runtimes over loopback.
#pragma once

#include <functional>
#include <future>

#include "actors/relays.hpp"

namespace lockstep {

inline constexpr std::uint32_t ranks = 3;

// What instrumented code takes several times as long for is no timeout there.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr std::uint32_t slowness = 4;
#else
inline constexpr std::uint32_t slowness = 1;
#endif

inline settings of_rank(std::uint32_t rank, std::uint16_t leader) {
  auto s = quiet();
  s.transport.listen = "127.0.0.1:0";
  s.transport.rank = rank;
  s.transport.ranks = ranks;
  if (rank > 0) s.transport.connect = "127.0.0.1:" + std::to_string(leader);
  s.transport.retry_ms = 20;
  s.transport.retry_ms_max = 50;
  s.receiver.lease_ms = 800 * slowness;
  s.receiver.ping_ms = 50;
  s.receiver.hello_ms = 100;
  s.sync.recovery_timeout_ms = 3'000 * slowness;
  s.sync.stage_timeout_ms = 1'000 * slowness;
  return s;
}

/// Several tensors for each rank, with interleaved owners.
inline layout model() {
  std::vector<tensor_spec> specs;
  for (unsigned i = 0; i < 9; ++i)
    specs.push_back({std::string(1, static_cast<char>('a' + i)), dtype::bf16, {40, 197 + i}});
  return layout(std::move(specs));
}

inline shard_mask every_third(const layout& shape, std::uint32_t rank) {
  shard_mask out(shape.count());
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = i % ranks == rank;
  return out;
}

using owner_of_tensors = std::function<shard_mask(const layout& shape, std::uint32_t rank)>;

/// All ranks of a trainer, and receivers linked to all of them.
struct ranked_fleet {
  explicit ranked_fleet(const layout& shape = model(), owner_of_tensors of = every_third)
      : w(random_weights(shape, 1)), owned(std::move(of)) {
    for (std::uint32_t rank = 0; rank < ranks; ++rank) start(rank);
  }

  void start(std::uint32_t rank, std::uint32_t history_percent = 20) {
    if (rt.size() <= rank) {
      rt.resize(rank + 1);
      t.resize(rank + 1);
    }
    auto s = of_rank(rank, rank == 0 ? 0 : rt[0]->port());
    s.sync.history_percent = history_percent;
    start(s);
  }

  void start(const settings& s) {
    const auto rank = s.transport.rank;
    t[rank].reset();
    rt[rank].reset();
    rt[rank] = std::make_unique<runtime>(s);
    t[rank] = std::make_unique<trainer>(*rt[rank], w.shape(), owned(w.shape(), rank));
  }

  settings of_receivers() const {
    auto s = of_rank(0, 0);
    s.transport = {};
    for (const auto& r : rt) {
      if (!s.transport.connect.empty()) s.transport.connect += ',';
      s.transport.connect += "127.0.0.1:" + std::to_string(r->port());
    }
    s.transport.retry_ms = 20;
    s.transport.retry_ms_max = 50;
    return s;
  }

  void add(receiver_id id, receiver_options o = {}) {
    o.id = id;
    there.push_back(std::make_unique<runtime>(of_receivers()));
    rx.push_back(std::make_unique<receiver>(*there.back(), w.shape(), std::move(o)));
  }

  void add_part(receiver_id id, tensor_names tensors, receiver_options o = {}) {
    o.tensors = std::move(tensors);
    add(id, std::move(o));
  }

  /// Calls `work(trainer)` at every rank at once, and returns what rank 0's says.
  template <class Work>
  auto all(Work work) {
    std::vector<std::future<decltype(work(*t[0]))>> done;
    for (std::uint32_t rank = 1; rank < ranks; ++rank)
      done.push_back(std::async(std::launch::async, [&, rank] { return work(*t[rank]); }));
    auto out = work(*t[0]);
    for (auto& d : done) d.get();
    return out;
  }

  version_ref seed(std::uint64_t label = 0) {
    return all([&](trainer& x) { return x.seed(w, label); });
  }
  sync_report sync(unsigned label) {
    step(w, label);
    return all([&](trainer& x) { return x.sync(label, w).wait(); });
  }
  bool all_hold() const {
    for (const auto& r : rx)
      if (!same(*r, w) || !r->state().ready) return false;
    return true;
  }

  weight_buffer w;
  owner_of_tensors owned;
  std::vector<std::unique_ptr<runtime>> rt;
  std::vector<std::unique_ptr<trainer>> t;
  std::vector<std::unique_ptr<runtime>> there;
  std::vector<std::unique_ptr<receiver>> rx;
};

}  // namespace lockstep
