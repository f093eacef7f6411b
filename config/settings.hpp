// Decides which settings there are in code: one plain member for each row of settings_table.hpp.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace lockstep {

/// Who is seeded again when a sync ends with failures.
enum class reseed_scope : std::uint8_t {
  failed,  ///< only receivers that failed
  all      ///< every receiver
};

/// How a delta is written.
enum class delta_encoding : std::uint8_t {
  automatic,  ///< raw to whose link is so fast that less work is sooner done, else coded
  coded,      ///< fewest bytes
  raw         ///< least work
};

/// Which of the kernels' implementations runs. Others than the first are one each of
/// `kernels::implementation`, by its name.
enum class simd_choice : std::uint8_t {
  automatic,  ///< the best that this machine has
  portable,
  sse4,
  avx2,
  avx512,
  avx512_dl,
  neon
};

/// Least severe kind of line that is logged.
enum class log_level : std::uint8_t { trace, debug, info, warn, error, off };

/// Thrown for a setting that is unknown, malformed, of the wrong type or out of range, and for a
/// settings file that cannot be read. The text is one line that names the setting and where it
/// was set. Caused by the operator, or by an embedding program that filled `settings` itself.
class setting_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Settings on which all nodes of a cluster have to agree to be one cluster.
struct cluster_settings {
  std::string name = "lockstep";  ///< 1 to 64 bytes
};

/// How a sync proceeds and when it gives up. Read by the trainer side.
struct sync_settings {
  std::uint32_t members_min = 1;  ///< fewer participants left than this aborts the sync
  std::uint32_t stage_timeout_ms = 5'000;
  std::uint32_t commit_timeout_ms = 10'000;
  std::uint32_t attach_timeout_ms = 10'000;
  std::uint32_t full_timeout_ms = 10'000;
  std::uint64_t link_bytes_per_s = 50'000'000;  ///< slowest link that the deadlines allow for
  std::uint32_t commit_resend_ms = 200;
  std::uint32_t commit_resend_max = 2;
  std::uint32_t redo_max = 2;
  std::uint32_t recovery_timeout_ms = 60'000;
  reseed_scope reseed = reseed_scope::failed;
  std::uint32_t history_percent = 20;  ///< of the model's bytes; 0: nobody catches up by a delta
  delta_encoding encoding = delta_encoding::automatic;
  std::uint64_t raw_bytes_per_s = 150'000'000;  ///< for each core: faster links are sent raw deltas
  std::uint32_t correlated_percent = 50;        ///< 0 to 100; 0 switches it off
};

/// How bulk bytes are cut and how many may be under way.
struct bucket_settings {
  std::uint64_t bytes_max = 4ull << 20;
  std::uint32_t credit = 4;  ///< buckets in flight to one receiver
};

/// How a trainer's runs are told apart.
struct trainer_settings {
  std::string run_file;  ///< keeps the number of the last run; empty: by the clock alone
};

/// What a receiver accepts and when it stops trusting that its trainer is there.
struct receiver_settings {
  std::uint64_t staged_bytes_max = 4ull << 30;
  std::uint32_t buckets_max = 1'048'576;
  std::uint32_t lease_ms = 5'000;
  std::uint32_t ping_ms = 500;
  std::uint32_t hello_ms = 1'000;
  bool serve_stale = false;
  std::uint32_t scrub_ms = 600'000;
};

/// How often, and how soon, something that failed is tried again.
struct supervision_settings {
  std::uint32_t attempts_max = 5;
  std::uint32_t backoff_ms = 100;
  std::uint32_t backoff_ms_max = 5'000;
  std::uint32_t restart_max = 10;
};

/// Where other processes are, how they prove who they are, and how bytes get there.
struct transport_settings {
  std::string listen;  ///< HOST:PORT where receivers find this trainer; empty: in this process only
  std::string
      connect;  ///< HOST:PORT, several parted by commas, of the trainer; empty: this process
  std::string certificate_file;  ///< PEM; who has one demands one
  std::string key_file;
  std::string authority_file;
  std::string shared_key_file;  ///< 64 hexadecimal digits
  bool insecure = false;        ///< neither, and off loopback all the same
  std::string members;          ///< names, or NAME=ID, parted by commas; empty: every receiver
  std::uint32_t rank = 0;       ///< of this process among those of one trainer
  std::uint32_t ranks = 1;      ///< how many those are
  std::uint32_t streams = 1;    ///< bulk connections to one receiver
  std::uint32_t threads = 2;
  std::uint32_t connect_timeout_ms = 5'000;
  std::uint32_t handshake_timeout_ms = 5'000;
  std::uint32_t retry_ms = 200;
  std::uint32_t retry_ms_max = 2'000;
  std::uint32_t failures_per_minute_max = 120;  ///< handshakes of one address; 0: any number
  std::uint32_t fanout = 0;   ///< stripes, and receivers that one passes each on to; 0: nobody does
  std::string relay_listen;   ///< HOST:PORT where receivers have buckets from this one; empty: none
  std::string relay_address;  ///< HOST:PORT that those are told; empty: where it listens
  std::uint32_t relay_stall_ms = 500;
  std::uint32_t relay_backoff_ms = 10'000;
};

/// Resources of this process.
struct runtime_settings {
  std::uint32_t threads = 0;  ///< 0: as many as there are cores
  simd_choice simd = simd_choice::automatic;
  bool core_dumps = true;  ///< whether this process may leave its memory to others
};

/// Where this process logs, and how much.
struct log_settings {
  log_level level = log_level::warn;
  std::string file;  ///< empty: standard error
};

/// What goes wrong on purpose.
struct drill_settings {
  std::string kill_at;  ///< a step at which this process ends; empty: none
};

/// Every setting. A default-constructed value holds the defaults of the table. A program may fill
/// it itself or let a `settings_loader` do so; a loader's result is valid, anything else has to
/// pass `validate`. A plain value: copies are independent.
struct settings {
  cluster_settings cluster;
  sync_settings sync;
  bucket_settings bucket;
  trainer_settings trainer;
  receiver_settings receiver;
  supervision_settings supervision;
  transport_settings transport;
  runtime_settings runtime;
  log_settings log;
  drill_settings drill;
};

/// Checks every member against its row of the table, and what members demand of each other.
/// Throws `setting_error` naming the first that does not hold.
void validate(const settings& s);

}  // namespace lockstep
