// Decides what the two sides of a simulated cluster consist of, and how weights become bytes on a
// wire.
#pragma once

#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <variant>

#include "tests/support/cluster_sim.hpp"

namespace lockstep::sim {

inline std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

/// Digest of all bytes under `key`; the public one has key 0.
inline digest digest_of(const weights& w, std::uint64_t key) {
  std::uint64_t all = 0;
  std::memcpy(&all, w.data(), sizeof all);
  return {mix(all + mix(key + 1)), mix(all ^ mix(key + 2))};
}

inline hash128 hash_of(const payload& p) {
  std::uint64_t h = p.size();
  for (std::size_t i = 0; i < p.size(); ++i) h = mix(h + static_cast<std::uint64_t>(p.data()[i]));
  return {h, mix(h + 7)};
}

inline constexpr hash128 sim_layout{11, 13};

/// An overwrite set, cut into buckets of pairs (position, value).
struct wire {
  manifest content;
  std::vector<payload> buckets;
};

/// Positions of weights, a bit each.
using positions = std::uint8_t;

/// What of `to` stands at `where`.
inline wire encode(const weights& to, positions where) {
  wire out;
  std::vector<std::byte> bytes;
  const auto cut = [&] {
    if (bytes.empty()) return;
    out.buckets.emplace_back(std::move(bytes));
    bytes.clear();
    const auto& p = out.buckets.back();
    out.content.buckets.push_back({p.size(), hash_of(p)});
    out.content.bytes += p.size();
  };
  for (std::size_t i = 0; i < to.size(); ++i) {
    if ((where >> i & 1) == 0) continue;
    bytes.push_back(static_cast<std::byte>(i));
    bytes.push_back(static_cast<std::byte>(to[i]));
    if (bytes.size() == 4) cut();
  }
  cut();
  out.content.layout = sim_layout;
  out.content.changed = out.content.bytes / 2;
  return out;
}

inline positions difference(const weights& a, const weights& b) {
  unsigned out = 0;
  for (std::size_t i = 0; i < a.size(); ++i) out |= (a[i] != b[i] ? 1u : 0u) << i;
  return static_cast<positions>(out);
}

inline void overwrite(weights& w, const payload& p, std::size_t from = 0, std::size_t to = 99) {
  for (std::size_t i = 2 * from; i + 1 < p.size() && i < 2 * to; i += 2)
    w.at(static_cast<std::size_t>(p.data()[i])) = static_cast<std::uint8_t>(p.data()[i + 1]);
}

using body =
    std::variant<attach_msg, full_begin_msg, prepare_msg, bucket_msg, commit_msg, abort_msg,
                 redo_msg, ping_msg, hello_msg, pong_msg, reply_msg, credit_msg>;

struct packet {
  bool to_node = true;
  std::size_t to = 0;    ///< index of the node or of the trainer
  std::size_t from = 0;  ///< index of the trainer, for pings
  body what;
};

/// What a receiver's executor has still to do; each takes one step, a write takes two.
struct job {
  enum class kind { verify, check, apply, write, finish, prove, hook_failed } what;
  txn_ref txn;
  digest base;
  target_info target;
  std::uint64_t challenge = 0;
  std::uint32_t index = 0;
  std::vector<payload> frames;
  bool half_done = false;
};

struct node {
  receiver_id id = 0;
  incarnation inc;
  bool alive = false;
  bool lying = false;  ///< holds other bytes than it told its own machine
  weights bytes{};
  std::optional<receiver_fsm> fsm;
  std::map<std::uint32_t, payload> staged;
  std::deque<job> jobs;
  readiness served;             ///< what the engine was told last
  std::uint64_t fence_run = 0;  ///< highest run that an attach or full of this life came from
  version_ref asked_for;        ///< by the last attach
  std::map<std::size_t, time_point> pinged;  ///< by trainer
  std::map<std::size_t, time_point> hello_at;
  receiver_fsm::summary seen;  ///< after its last step

  // For the broken variants.
  std::map<std::uint64_t, std::uint64_t> run_of;  ///< true run by seq
  std::uint64_t tag_run = 0;
  std::optional<receiver_fsm> before;
  std::map<std::uint32_t, payload> staged_before;
};

struct trainer {
  std::size_t index = 0;
  std::uint64_t run = 0;
  bool alive = true;
  bool stops_when_fenced = false;
  weights current{};
  weights held{};  ///< the snapshot's bytes
  /// What has changed since the snapshot was this; the latest last.
  std::vector<std::pair<weights, positions>> history;
  std::optional<sync_fsm> sync;
  join_fsm join;
  std::optional<snapshot_fsm> snapshot;
  std::optional<supervision_fsm> supervision;
  std::map<receiver_id, flusher_fsm> flushers;
  wire outgoing;
  txn_ref outgoing_txn;
  weights target{};
  std::deque<std::function<void()>> jobs, to_sync, to_supervision;
  sync_fsm::summary seen;  ///< after its last step
  time_point ping_at;

  int issued = 0, reported = 0;
  bool open = false;
  time_point issued_at;
  txn_ref sync_txn;
  sync_result last = sync_result::ok;

  // For the broken variants.
  std::optional<sync_fsm> undecided;
  std::map<std::uint64_t, std::uint64_t> alias;  ///< number on the wire by seq
};

}  // namespace lockstep::sim
