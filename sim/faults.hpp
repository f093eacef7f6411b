// Decides which faults the simulator knows, how often each strikes, and when: from the seed alone.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lockstep::sim {

enum class fault_id : std::uint8_t {
  lose,
  duplicate,
  delay,
  reorder,
  replay,
  flip,
  flip_bucket,
  cut,
  cut_one_way,
  slow_link,
  refuse_frame,
  stage_full,
  fail_before,
  fail_middle,
  fail_after,
  lie,
  encode_fail,
  crash_receiver,
  crash_writing,
  crash_trainer,
  zombie_trainer,
  kill_actor,
  false_down,
  attach,
  detach,
  slow_receiver,
  slow_trainer,
  clock_jump,
  rot,
  hurry,
  truncate,
  flap,
  swizzle,
  late_rank,
  absent_rank,
  odd_rank,
  slow_stage,
  refuse_delta,
  count_
};
inline constexpr auto fault_count = static_cast<std::size_t>(fault_id::count_);

/// What a rate is a share of.
enum class per : std::uint8_t { message, bucket, stage, write, sync, step, rank };
std::string_view to_string(per unit) noexcept;

struct fault_row {
  fault_id id;
  std::string_view name;
  per unit;
  double rate;  ///< by default: strikes per unit, 0 to 1
  std::string_view help;
};
/// Every fault, in the order of `fault_id`.
std::span<const fault_row> fault_table() noexcept;
const fault_row* find_fault(std::string_view name) noexcept;
/// Its name.
std::string to_string(fault_id id);

/// How often each fault strikes.
struct fault_rates {
  std::array<double, fault_count> rate;
  /// Each seed switches about half of the faults off and makes some more frequent, so that rare
  /// ones are not always drowned by others.
  bool swarm = true;

  fault_rates();  ///< the table's
  double& operator[](fault_id id) { return rate[static_cast<std::size_t>(id)]; }
  double operator[](fault_id id) const { return rate[static_cast<std::size_t>(id)]; }
};

/// Does what `text` says: `NAME=RATE`, `none` (all rates are 0) or `swarm=on|off`. Throws
/// `error{bad_input}`.
void set_rate(fault_rates& rates, std::string_view text);
/// Reads a file of such lines; `#` starts a comment. Throws `error{bad_input}` with the number of
/// the line.
void read_rates(fault_rates& rates, const std::string& text, const std::string& name);

/// One strike: the `index`-th of its kind in a run.
using strike = std::pair<fault_id, std::uint32_t>;
/// `NAME:INDEX`.
std::string to_string(const strike& s);
std::optional<strike> parse_strike(std::string_view text);

/// Draws strikes. Every draw is a hash of the seed, the fault and a counter, so that one fault's
/// strikes do not move when another is switched off.
class dice {
 public:
  /// `keep`: only these strike; whatever else is drawn is counted and does nothing.
  dice(std::uint64_t seed, const fault_rates& rates,
       const std::optional<std::set<strike>>& keep = std::nullopt);

  /// One more opportunity for `id`.
  bool strikes(fault_id id);
  /// One more step: which of the faults that can strike at any step strikes now.
  std::optional<fault_id> at_step();
  /// A number below `bound` (which is not 0) that belongs to the last strike of `id`.
  std::uint64_t below(fault_id id, std::uint64_t bound);

  /// The last strike of `id` found nothing that it could have struck.
  void miss(fault_id id) { --kinds_[static_cast<std::size_t>(id)].happened; }

  /// Nothing strikes any more.
  void stop() { stopped_ = true; }
  /// In the order in which they came.
  const std::vector<strike>& struck() const noexcept { return struck_; }
  std::uint64_t count(fault_id id) const { return kinds_[static_cast<std::size_t>(id)].happened; }

 private:
  struct kind {
    std::uint64_t threshold = 0;
    std::uint64_t opportunities = 0;
    std::uint32_t drawn = 0;
    std::uint64_t happened = 0;
    std::uint64_t parameters = 0;
  };
  bool happens(fault_id id);

  std::uint64_t seed_;
  std::array<kind, fault_count> kinds_;
  std::uint64_t steps_ = 0;
  std::uint64_t step_threshold_ = 0;
  std::optional<std::set<strike>> keep_;
  std::vector<strike> struck_;
  bool stopped_ = false;
};

}  // namespace lockstep::sim
