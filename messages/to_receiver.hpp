// Decides what the trainer's side may say to a receiver. Every message is idempotent and carries
// the cluster, the transaction and the incarnation it is meant for.
#pragma once

#include <cstdint>
#include <tuple>
#include <vector>

#include "messages/ids.hpp"
#include "messages/payload.hpp"

namespace lockstep {

/// Who a message is for and which attempt it belongs to; the fences compare nothing else.
struct envelope {
  std::uint64_t cluster = 0;  ///< hash of the cluster's name: strangers are ignored
  txn_ref txn;
  incarnation inc;

  friend bool operator==(const envelope&, const envelope&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.cluster, x.txn, x.inc); }
};

/// Size in bytes and hash of one bucket: XXH3-128, or half of SHA-256 where receivers may pass it
/// on.
struct bucket_info {
  std::uint64_t bytes = 0;
  hash128 hash;

  friend bool operator==(const bucket_info&, const bucket_info&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.bytes, x.hash); }
};

/// Everything one transaction carries, announced before any of it arrives.
struct manifest {
  hash128 layout;             ///< fingerprint both sides must share
  std::uint64_t bytes = 0;    ///< sum over `buckets`
  std::uint64_t changed = 0;  ///< elements overwritten (for a full: all of them)
  std::vector<bucket_info> buckets;

  friend bool operator==(const manifest&, const manifest&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.layout, x.bytes, x.changed, x.buckets);
  }
};

/// What a transaction leads to. `label` is the trainer's own number (its step): shown to the engine
/// and in reports, never fenced by.
struct target_info {
  version_ref version;
  digest state;  ///< digest of all weights at `version` under the public key
  std::uint64_t label = 0;

  friend bool operator==(const target_info&, const target_info&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.version, x.state, x.label); }
};

/// Raise the fences, drop staged data, then prove by full digest that you hold `target`.
struct attach_msg {
  envelope env;
  target_info target;
  hash128 layout;
  std::uint64_t challenge = 0;  ///< key under which the proof must be computed

  friend bool operator==(const attach_msg&, const attach_msg&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.env, x.target, x.layout, x.challenge); }
};

/// All weights follow as buckets of full frames; stop serving and overwrite in place.
struct full_begin_msg {
  envelope env;
  target_info target;
  manifest content;
  std::uint64_t challenge = 0;
  /// Not all weights, but what has changed since the fleet held what the answer to attach named:
  /// stage it, prove that it leads to `target`, and only then stop serving and write.
  bool catch_up = false;

  friend bool operator==(const full_begin_msg&, const full_begin_msg&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.env, x.target, x.content, x.challenge, x.catch_up);
  }
};

/// A delta follows as buckets; stage it, prove base and payload, write nothing, vote.
struct prepare_msg {
  envelope env;
  version_ref base;
  digest base_state;
  target_info target;
  manifest content;

  friend bool operator==(const prepare_msg&, const prepare_msg&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.env, x.base, x.base_state, x.target, x.content);
  }
};

/// One bucket of the transaction announced before it. The payload is shared, never written.
struct bucket_msg {
  envelope env;
  std::uint32_t index = 0;
  payload bytes;

  friend bool operator==(const bucket_msg&, const bucket_msg&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.env, x.index, x.bytes); }
};

/// Everybody still in the view voted yes: apply, and prove the result under `challenge`.
struct commit_msg {
  envelope env;
  digest target_state;
  std::uint64_t challenge = 0;
  std::uint32_t round = 0;  ///< of the join: the answer quotes it

  friend bool operator==(const commit_msg&, const commit_msg&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.env, x.target_state, x.challenge, x.round);
  }
};

/// Nobody commits: drop what is staged.
struct abort_msg {
  envelope env;

  friend bool operator==(const abort_msg&, const abort_msg&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.env); }
};

/// The same decided delta again, for a receiver whose apply failed; its buckets follow. Overwriting
/// any mix of base and target with the same delta gives the target (docs/protocol.md, F2).
struct redo_msg {
  envelope env;
  target_info target;
  manifest content;
  std::uint64_t challenge = 0;
  std::uint32_t round = 0;

  friend bool operator==(const redo_msg&, const redo_msg&) = default;
  static constexpr auto fields(auto& x) {
    return std::tie(x.env, x.target, x.content, x.challenge, x.round);
  }
};

/// Renews the lease and names the version that the fleet holds.
struct ping_msg {
  std::uint64_t cluster = 0;
  incarnation inc;
  version_ref current;

  friend bool operator==(const ping_msg&, const ping_msg&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.cluster, x.inc, x.current); }
};

/// A trainer's side has started and is reached over this link: answers to `run` go there.
struct welcome_msg {
  std::uint64_t cluster = 0;
  std::uint64_t run = 0;

  friend bool operator==(const welcome_msg&, const welcome_msg&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.cluster, x.run); }
};

/// Digest every tensor as it stands in memory now, under this challenge.
struct audit_msg {
  std::uint64_t cluster = 0;
  incarnation inc;
  std::uint64_t challenge = 0;

  friend bool operator==(const audit_msg&, const audit_msg&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.cluster, x.inc, x.challenge); }
};

}  // namespace lockstep
