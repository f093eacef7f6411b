// Decides how runs, transactions, versions, receivers and digests are named on every message.
//
// `fields`, in every struct that travels, lists its members in the wire's order. Encoders, decoders
// and traces know a struct by nothing else (docs/wire-messages.md).
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>

namespace lockstep {

/// Identity of one receiver inside a cluster; stable across restarts of that receiver.
using receiver_id = std::uint32_t;

/// Names one byte content of all weights, for ever. `run` is strictly larger for every start of the
/// trainer, so a restarted trainer can never name other bytes by an old version. `number` is the
/// transaction that produced the content; 0 is what the run booted from. {0, 0} means "no version".
struct version_ref {
  std::uint64_t run = 0;
  std::uint64_t number = 0;

  friend auto operator<=>(const version_ref&, const version_ref&) = default;
  explicit operator bool() const noexcept { return run != 0; }
  static constexpr auto fields(auto& x) { return std::tie(x.run, x.number); }
};

/// Random 128-bit identity of one life of a receiver; a restart draws a new one, so that nothing
/// addressed to the dead life is ever obeyed.
struct incarnation {
  std::uint64_t hi = 0;
  std::uint64_t lo = 0;

  friend auto operator<=>(const incarnation&, const incarnation&) = default;
  explicit operator bool() const noexcept { return hi != 0 || lo != 0; }
  static constexpr auto fields(auto& x) { return std::tie(x.hi, x.lo); }
};

/// Identity of a state of all weights under one key (see kernels/digest.hpp): two lanes of a keyed
/// additive hash. Guards against rot, wrong base, torn and reordered writes; not against an
/// adversary who knows the key.
struct digest {
  std::uint64_t lane0 = 0;
  std::uint64_t lane1 = 0;

  friend auto operator<=>(const digest&, const digest&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.lane0, x.lane1); }
};

/// XXH3-128 of a byte string (a bucket, a layout; of some buckets half of the SHA-256).
struct hash128 {
  std::uint64_t hi = 0;
  std::uint64_t lo = 0;

  friend auto operator<=>(const hash128&, const hash128&) = default;
  static constexpr auto fields(auto& x) { return std::tie(x.hi, x.lo); }
};

/// One attempt at moving receivers to a version: a delta sync, an attach or a full reseed. `seq` is
/// fresh for every attempt of a run and never reused; an aborted attempt burns its number.
struct txn_ref {
  std::uint64_t run = 0;
  std::uint64_t seq = 0;

  friend auto operator<=>(const txn_ref&, const txn_ref&) = default;
  explicit operator bool() const noexcept { return run != 0; }
  static constexpr auto fields(auto& x) { return std::tie(x.run, x.seq); }
};

/// What every message of a cluster carries, so that strangers are told apart: a hash of its name.
std::uint64_t cluster_id(std::string_view name) noexcept;

/// `run.number`, as shown in logs and reports.
std::string to_string(version_ref v);
std::string to_string(txn_ref t);
/// 32 lower-case hexadecimal digits.
std::string to_string(const incarnation& x);
std::string to_string(const digest& x);
std::string to_string(const hash128& x);

}  // namespace lockstep
