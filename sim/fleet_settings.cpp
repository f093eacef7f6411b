// Decides what settings a simulated fleet has: short deadlines, and buckets of a few bytes; some
// are other ones for each seed.
#include "sim/fleet.hpp"

namespace lockstep::sim {

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
  if (mix(o_.seed, 0xc0de) % 4 == 0) s.sync.encoding = delta_encoding::raw;
  s.receiver.serve_stale = mix(o_.seed, 0x57a1e) % 8 == 0;
  s.receiver.scrub_ms = o_.digests && mix(o_.seed, 0x5c6b) % 4 == 0 ? 3'000 : 0;
  s.transport.fanout = o_.fanout;
  s.transport.ranks = o_.ranks;
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

}  // namespace lockstep::sim
