#include "config/settings_table.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace lockstep {
namespace {

using enum setting_scope;

constexpr std::string_view reseed_names[] = {"failed", "all"};
constexpr std::string_view encoding_names[] = {"auto", "coded", "raw"};
constexpr std::string_view simd_names[] = {"auto",   "portable",  "sse4", "avx2",
                                           "avx512", "avx512_dl", "neon"};
constexpr std::string_view level_names[] = {"trace", "debug", "info", "warn", "error", "off"};

constexpr std::uint64_t KiB = 1024;
constexpr std::uint64_t MiB = 1024 * KiB;
constexpr std::uint64_t GiB = 1024 * MiB;
constexpr std::uint64_t day_ms = 86'400'000;

// The four builders tie a row to its member, so that a row is all there is to write for a setting
// besides the member itself.

template <auto Section, auto Member>
constexpr setting_row integer(std::string_view key, setting_scope scope, std::uint64_t initial,
                              std::string_view unit, std::uint64_t min, std::uint64_t max,
                              std::string_view help) {
  return {.key = key,
          .type = setting_type::integer,
          .scope = scope,
          .initial = initial,
          .unit = unit,
          .min = min,
          .max = max,
          .help = help,
          .load = [](const settings& s) -> setting_value {
            return std::uint64_t{(s.*Section).*Member};
          },
          .store =
              [](settings& s, const setting_value& value) {
                using member = std::remove_reference_t<decltype((s.*Section).*Member)>;
                (s.*Section).*Member = static_cast<member>(std::get<std::uint64_t>(value));
              }};
}

template <auto Section, auto Member>
constexpr setting_row boolean(std::string_view key, setting_scope scope, bool initial,
                              std::string_view help) {
  return {
      .key = key,
      .type = setting_type::boolean,
      .scope = scope,
      .initial = initial,
      .help = help,
      .load = [](const settings& s) -> setting_value { return (s.*Section).*Member; },
      .store = [](settings& s,
                  const setting_value& value) { (s.*Section).*Member = std::get<bool>(value); }};
}

template <auto Section, auto Member>
constexpr setting_row text(std::string_view key, setting_scope scope, std::string_view initial,
                           std::uint64_t min, std::uint64_t max, std::string_view help) {
  return {.key = key,
          .type = setting_type::text,
          .scope = scope,
          .initial = initial,
          .min = min,
          .max = max,
          .help = help,
          .load = [](const settings& s) -> setting_value { return (s.*Section).*Member; },
          .store =
              [](settings& s, const setting_value& value) {
                (s.*Section).*Member = std::get<std::string>(value);
              }};
}

template <auto Section, auto Member, const auto& Names>
constexpr setting_row choice(std::string_view key, setting_scope scope, std::string_view initial,
                             std::string_view help) {
  return {.key = key,
          .type = setting_type::choice,
          .scope = scope,
          .initial = initial,
          .choices = Names,
          .help = help,
          .load = [](const settings& s) -> setting_value {
            // A program can cast anything into an enumeration; no name fits that.
            const auto index = static_cast<std::size_t>((s.*Section).*Member);
            return index < std::size(Names) ? std::string(Names[index]) : std::string();
          },
          .store =
              [](settings& s, const setting_value& value) {
                using member = std::remove_reference_t<decltype((s.*Section).*Member)>;
                const auto found = std::ranges::find(Names, std::get<std::string>(value));
                (s.*Section).*Member = static_cast<member>(found - std::begin(Names));
              }};
}

using root = settings;
using sync = sync_settings;
using receiver = receiver_settings;
using supervision = supervision_settings;
using transport = transport_settings;

// clang-format off
constexpr setting_row table[] = {
  text<&root::cluster, &cluster_settings::name>("cluster.name", cluster, "lockstep", 1, 64,
    "Name of the cluster; nodes of another name are not talked to."),

  integer<&root::sync, &sync::members_min>("sync.members_min", node, 1, "", 1, 65'535,
    "Fewer participants left than this aborts the sync."),
  integer<&root::sync, &sync::stage_timeout_ms>("sync.stage_timeout_ms",
    node, 5'000, "ms", 1, day_ms,
    "How long receivers have for staging a delta and voting, besides the time for its bytes."),
  integer<&root::sync, &sync::commit_timeout_ms>("sync.commit_timeout_ms",
    node, 10'000, "ms", 1, day_ms,
    "How long receivers have for applying and acknowledging after the commit."),
  integer<&root::sync, &sync::attach_timeout_ms>("sync.attach_timeout_ms",
    node, 10'000, "ms", 1, day_ms,
    "How long a receiver has for proving what it holds when it attaches."),
  integer<&root::sync, &sync::full_timeout_ms>("sync.full_timeout_ms",
    node, 10'000, "ms", 1, day_ms,
    "How long a receiver has for a full seed, besides the time for its bytes."),
  integer<&root::sync, &sync::link_bytes_per_s>("sync.link_bytes_per_s",
    node, 50'000'000, "bytes/s", 1, 1'000'000'000'000,
    "Slowest link that deadlines allow for: staging and full seeds get their bytes divided by "
    "this on top."),
  integer<&root::sync, &sync::commit_resend_ms>("sync.commit_resend_ms", node, 200, "ms", 1, day_ms,
    "How long an unanswered commit waits before it is sent again."),
  integer<&root::sync, &sync::commit_resend_max>("sync.commit_resend_max", node, 2, "", 0, 1'000,
    "How often an unanswered commit is sent again."),
  integer<&root::sync, &sync::redo_max>("sync.redo_max", node, 2, "", 0, 1'000,
    "How often a receiver whose apply failed is told to do it again before it is reseeded."),
  integer<&root::sync, &sync::recovery_timeout_ms>("sync.recovery_timeout_ms",
    node, 60'000, "ms", 1, day_ms,
    "How long a sync waits for failed receivers to be members again before it reports degraded."),
  choice<&root::sync, &sync::reseed, reseed_names>("sync.reseed", node, "failed",
    "Who is given all weights when a receiver needs them: that one, or all."),
  integer<&root::sync, &sync::history_percent>("sync.history_percent", node, 20, "%", 0, 1'000,
    "Share of the model's size that the trainer spends on remembering where its last steps changed "
    "weights, so that a receiver which missed some is sent what changed instead of all weights; 0 "
    "switches this off."),
  choice<&root::sync, &sync::encoding, encoding_names>("sync.encoding", node, "auto",
    "How deltas are written: coded takes a quarter of raw's bytes, raw less work at both ends. With "
    "auto each receiver is sent what gets there sooner, as sync.raw_bytes_per_s says; where there "
    "are several ranks, or receivers that pass deltas on, all are sent coded ones. Parts of a tensor "
    "for which neither is shorter go whole."),
  integer<&root::sync, &sync::raw_bytes_per_s>("sync.raw_bytes_per_s", node, 150'000'000, "bytes/s",
    1, 1'000'000'000'000,
    "Whoever took 16 MiB or more, at once and from the trainer, faster than this for each core of "
    "the trainer is sent raw deltas by sync.encoding = auto."),
  integer<&root::sync, &sync::correlated_percent>("sync.correlated_percent", node, 50, "%", 0, 100,
    "This share of participants refusing for one same reason aborts the sync rather than evicts "
    "them; 0 switches this off."),

  integer<&root::bucket, &bucket_settings::bytes_max>("bucket.bytes_max",
    node, 4 * MiB, "bytes", MiB + 256 * KiB, 64 * MiB,
    "Largest bucket that is sent or accepted."),
  integer<&root::bucket, &bucket_settings::credit>("bucket.credit", node, 4, "", 1, 1'024,
    "Buckets in flight to one receiver."),

  text<&root::trainer, &trainer_settings::run_file>("trainer.run_file", node, "", 0, 4'096,
    "File that keeps the number of the trainer's last run, on a disk that outlives its machine, so "
    "that a clock which was set back makes no number twice; empty: runs are numbered by the clock "
    "alone. A second trainer with the same file takes the later number, and the fleet."),

  integer<&root::receiver, &receiver::staged_bytes_max>("receiver.staged_bytes_max",
    node, 4 * GiB, "bytes", MiB + 256 * KiB, 16'384 * GiB,
    "Most bytes that a receiver holds staged; a larger delta is refused."),
  integer<&root::receiver, &receiver::buckets_max>("receiver.buckets_max",
    node, 1'048'576, "", 1, 16'777'216,
    "Most buckets that one delta or seed may have; more are refused."),
  integer<&root::receiver, &receiver::lease_ms>("receiver.lease_ms", node, 5'000, "ms", 1, day_ms,
    "A receiver that has not heard of its trainer for this long stops serving."),
  integer<&root::receiver, &receiver::ping_ms>("receiver.ping_ms", node, 500, "ms", 1, day_ms,
    "How often the trainer is heard of when there is nothing else to say; below the lease."),
  integer<&root::receiver, &receiver::hello_ms>("receiver.hello_ms", node, 1'000, "ms", 1, day_ms,
    "How often a receiver announces itself while no trainer is heard of."),
  boolean<&root::receiver, &receiver::serve_stale>("receiver.serve_stale", node, false,
    "Whether a receiver goes on serving, marked as stale, after its lease has run out."),
  integer<&root::receiver, &receiver::scrub_ms>("receiver.scrub_ms", node, 600'000, "ms", 0, day_ms,
    "A receiver that nobody has asked for this long to prove what it holds digests all of it by "
    "itself; if that is no more what it should be, it stops serving and is given all weights anew. "
    "0: never."),

  integer<&root::supervision, &supervision::attempts_max>("supervision.attempts_max",
    node, 5, "", 1, 1'000,
    "How often a receiver is admitted again, since the last sync that it acknowledged, before it is "
    "given up."),
  integer<&root::supervision, &supervision::backoff_ms>("supervision.backoff_ms",
    node, 100, "ms", 1, day_ms,
    "Wait before the second attempt at a reseed; doubles with every further one."),
  integer<&root::supervision, &supervision::backoff_ms_max>("supervision.backoff_ms_max",
    node, 5'000, "ms", 1, day_ms,
    "Longest wait between two attempts; not below the first wait."),
  integer<&root::supervision, &supervision::restart_max>("supervision.restart_max",
    node, 10, "", 0, 1'000,
    "How often actors that died are started again before the runtime gives up."),

  text<&root::transport, &transport::listen>("transport.listen", node, "", 0, 256,
    "HOST:PORT at which a trainer's process is found by receivers of other processes; port 0 takes "
    "any that is free; empty: by none."),
  text<&root::transport, &transport::connect>("transport.connect", node, "", 0, 262'144,
    "HOST:PORT of the trainer's process, or several parted by commas; empty: receivers belong to a "
    "trainer of their own process."),
  text<&root::transport, &transport::certificate_file>("transport.certificate_file",
    node, "", 0, 4'096,
    "This process' certificate, PEM; connections are then TLS 1.3 and both sides need one."),
  text<&root::transport, &transport::key_file>("transport.key_file", node, "", 0, 4'096,
    "Private key of the certificate, PEM, readable by nobody else."),
  text<&root::transport, &transport::authority_file>("transport.authority_file",
    node, "", 0, 4'096,
    "Certificates of the authorities that peers' certificates must come from, PEM."),
  text<&root::transport, &transport::shared_key_file>("transport.shared_key_file",
    node, "", 0, 4'096,
    "File with a secret of 64 hexadecimal digits that all processes share, instead of "
    "certificates; connections are then TLS 1.3 as well."),
  boolean<&root::transport, &transport::insecure>("transport.insecure", node, false,
    "Whether to listen off loopback, and to connect there, with neither certificates nor a shared "
    "key."),
  text<&root::transport, &transport::members>("transport.members", node, "", 0, 65'536,
    "Names of the receivers that may be given weights, parted by commas; patterns as in gpu-* do as "
    "well, and NAME=ID gives that id to NAME alone. Names are proven by certificates only. Empty: "
    "every receiver that the security lets in."),
  integer<&root::transport, &transport::rank>("transport.rank", node, 0, "", 0, 4'095,
    "Rank of this process among those of one trainer. Rank 0 leads; the others connect to it, and "
    "receivers connect to all."),
  integer<&root::transport, &transport::ranks>("transport.ranks", node, 1, "", 1, 4'096,
    "Processes that one trainer has; each owns some of the tensors."),
  integer<&root::transport, &transport::streams>("transport.streams", node, 1, "", 1, 16,
    "Bulk connections between a trainer and a receiver; more than one for long links."),
  integer<&root::transport, &transport::threads>("transport.threads", node, 2, "", 1, 64,
    "Threads that move bytes to and from other processes."),
  integer<&root::transport, &transport::connect_timeout_ms>("transport.connect_timeout_ms",
    node, 5'000, "ms", 1, day_ms,
    "How long reaching the trainer's process may take, handshake included."),
  integer<&root::transport, &transport::handshake_timeout_ms>("transport.handshake_timeout_ms",
    node, 5'000, "ms", 1, day_ms,
    "How long a stranger has for saying who it is."),
  integer<&root::transport, &transport::retry_ms>("transport.retry_ms", node, 200, "ms", 1, day_ms,
    "Wait before the trainer's process is tried again; doubles with every further try."),
  integer<&root::transport, &transport::retry_ms_max>("transport.retry_ms_max",
    node, 2'000, "ms", 1, day_ms,
    "Longest wait between two tries; not below the first wait."),
  integer<&root::transport, &transport::failures_per_minute_max>(
    "transport.failures_per_minute_max", node, 120, "", 0, 1'000'000,
    "Failed handshakes that one address may have a minute; with more, connections from there are "
    "closed at once until the minute is over. All behind one address translation count together; 0: "
    "never. Loopback is exempt."),
  integer<&root::transport, &transport::fanout>("transport.fanout", node, 0, "", 0, 16,
    "At the trainer: into how many stripes a delta is dealt, and how many receivers a receiver "
    "passes its stripe on to, so that the trainer sends each delta about once; all weights "
    "then come from receivers that hold them too. 0: the trainer sends everything to everybody."),
  text<&root::transport, &transport::relay_listen>("transport.relay_listen", node, "", 0, 256,
    "At a receiver: HOST:PORT at which other receivers have from it what it got; port 0 takes any "
    "that is free; empty: it passes nothing on."),
  text<&root::transport, &transport::relay_address>("transport.relay_address", node, "", 0, 256,
    "At a receiver: HOST:PORT that other receivers are told to find it at; empty: where it listens, "
    "or, if that is every address, the one that the trainer sees."),
  integer<&root::transport, &transport::relay_stall_ms>("transport.relay_stall_ms",
    node, 500, "ms", 1, day_ms,
    "How long another receiver may bring nothing before the trainer sends what is missing itself, "
    "besides the time for a few buckets."),
  integer<&root::transport, &transport::relay_backoff_ms>("transport.relay_backoff_ms",
    node, 10'000, "ms", 1, day_ms,
    "How long a receiver that failed others passes nothing on; doubles with every further time, "
    "up to 64 times."),

  integer<&root::runtime, &runtime_settings::threads>("runtime.threads", node, 0, "", 0, 256,
    "Worker threads, and threads of one pass over all weights; 0 takes as many as there are cores."),
  choice<&root::runtime, &runtime_settings::simd, simd_names>("runtime.simd", node, "auto",
    "Instructions that the kernels use, of the whole process: auto takes the best that this machine "
    "has; what it lacks is refused. All give the same bytes."),
  boolean<&root::runtime, &runtime_settings::core_dumps>("runtime.core_dumps", node, true,
    "Whether this process may leave a core dump, which holds weights, and be traced by others of its "
    "user."),

  choice<&root::log, &log_settings::level, level_names>("log.level", node, "warn",
    "Least severe kind of line that is logged."),
  text<&root::log, &log_settings::file>("log.file", node, "", 0, 4'096,
    "File that log lines are appended to; empty is standard error."),

  text<&root::drill, &drill_settings::kill_at>("drill.kill_at", node, "", 0, 256,
    "For drills: ACTOR.STEP:MOMENT or ACTOR.STEP:MOMENT:N, the step at which this process ends as "
    "by kill -9, the N-th time that it comes there; empty: none. A wrong value lists the points."),
};
// clang-format on

bool is_control(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 || byte == 0x7f;
}

/// Settings are printed as TOML, which is UTF-8 or nothing.
bool is_utf8(std::string_view text) {
  const auto at = [&](std::size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  for (std::size_t i = 0; i < text.size();) {
    const unsigned first = at(i);
    const std::size_t length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (length > 1 && (first < 0xc2 || first > 0xf4)) return false;
    for (std::size_t k = 1; k < length; ++k)
      if ((at(i + k) & 0xc0) != 0x80) return false;
    // Longer than need be, surrogates, and past the last code point.
    const unsigned second = at(i + 1);
    if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
        (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f))
      return false;
    i += length;
  }
  return true;
}

void demand(bool holds, std::string_view key, std::uint64_t value, std::string_view relation,
            std::string_view other, std::uint64_t other_value) {
  if (!holds)
    throw setting_error(fmt::format("{} is {}, must be {} {}, which is {}", key, value, relation,
                                    other, other_value));
}

}  // namespace

std::span<const setting_row> settings_table() noexcept {
  return table;
}

const setting_row* find_setting(std::string_view key) noexcept {
  const auto found = std::ranges::find(table, key, &setting_row::key);
  return found == std::end(table) ? nullptr : found;
}

std::string environment_name(std::string_view key) {
  std::string name = "LOCKSTEP_";
  for (const char c : key)
    name += 'a' <= c && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c == '.' ? '_' : c;
  return name;
}

std::string to_string(const setting_value& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  if (const auto* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
  return std::to_string(std::get<std::uint64_t>(value));
}

setting_value default_of(const setting_row& row) {
  if (const auto* text = std::get_if<std::string_view>(&row.initial)) return std::string(*text);
  if (const auto* flag = std::get_if<bool>(&row.initial)) return *flag;
  return std::get<std::uint64_t>(row.initial);
}

std::string range_text(const setting_row& row) {
  switch (row.type) {
    case setting_type::integer:
      return fmt::format("{} to {}", row.min, row.max);
    case setting_type::text:
      return fmt::format("{} to {} bytes", row.min, row.max);
    case setting_type::boolean:
      return "true or false";
    case setting_type::choice:
      break;
  }
  const auto last = row.choices.size() - 1;
  return fmt::format("{} or {}", fmt::join(row.choices.first(last), ", "), row.choices[last]);
}

std::string wanted_text(const setting_row& row) {
  switch (row.type) {
    case setting_type::integer:
      return fmt::format("an integer from {} to {}", row.min, row.max);
    case setting_type::text:
      return fmt::format("text of {} to {} bytes", row.min, row.max);
    case setting_type::boolean:
    case setting_type::choice:
      break;
  }
  return range_text(row);
}

std::string misfit(const setting_row& row, const setting_value& value) {
  const auto* number = std::get_if<std::uint64_t>(&value);
  const auto* text = std::get_if<std::string>(&value);
  if (text && std::ranges::any_of(*text, is_control)) return "holds a control character";
  if (text && !is_utf8(*text)) return "is not UTF-8";
  bool fits = false;
  switch (row.type) {
    case setting_type::integer:
      fits = number && row.min <= *number && *number <= row.max;
      break;
    case setting_type::boolean:
      fits = std::holds_alternative<bool>(value);
      break;
    case setting_type::text:
      fits = text && row.min <= text->size() && text->size() <= row.max;
      break;
    case setting_type::choice:
      fits = text && std::ranges::count(row.choices, *text) == 1;
      break;
  }
  if (fits) return {};
  // Quotes tell "5", which is text, from 5.
  const auto shown = text ? fmt::format("\"{:.80}\"", *text) : to_string(value);
  return fmt::format("is {}, must be {}", shown, wanted_text(row));
}

void validate(const settings& s) {
  for (const auto& row : table)
    if (const auto problem = misfit(row, row.load(s)); !problem.empty())
      throw setting_error(fmt::format("{} {}", row.key, problem));
  demand(s.receiver.ping_ms < s.receiver.lease_ms, "receiver.ping_ms", s.receiver.ping_ms, "below",
         "receiver.lease_ms", s.receiver.lease_ms);
  demand(s.supervision.backoff_ms <= s.supervision.backoff_ms_max, "supervision.backoff_ms",
         s.supervision.backoff_ms, "at most", "supervision.backoff_ms_max",
         s.supervision.backoff_ms_max);
  demand(s.transport.retry_ms <= s.transport.retry_ms_max, "transport.retry_ms",
         s.transport.retry_ms, "at most", "transport.retry_ms_max", s.transport.retry_ms_max);
  demand(s.bucket.bytes_max <= s.receiver.staged_bytes_max, "bucket.bytes_max", s.bucket.bytes_max,
         "at most", "receiver.staged_bytes_max", s.receiver.staged_bytes_max);
}

}  // namespace lockstep
