#include "sim/faults.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "messages/errors.hpp"
#include "messages/printable.hpp"
#include "sim/random.hpp"

namespace lockstep::sim {

namespace {

using f = fault_id;

// clang-format off
constexpr fault_row table[] = {
  {f::lose, "lose", per::message, 0.01, "The message is lost."},
  {f::duplicate, "duplicate", per::message, 0.01, "The message arrives twice."},
  {f::delay, "delay", per::message, 0.005, "The message, and what follows it on its link, is late by up to 3 s."},
  {f::reorder, "reorder", per::message, 0.02, "The message is late by up to 200 ms, at times 5 s, and overtaken by others."},
  {f::replay, "replay", per::message, 0.005, "The message arrives once more, up to 40 s later: a zombie."},
  {f::flip, "flip", per::message, 0.005, "One bit of the message flips on its way."},
  {f::flip_bucket, "flip-bucket", per::bucket, 0.005, "One bit of a bucket flips before its message is sealed."},
  {f::cut, "cut", per::step, 0.0002, "Nothing crosses between two processes for up to 8 s."},
  {f::cut_one_way, "cut-one-way", per::step, 0.0002, "Nothing crosses one way for up to 8 s."},
  {f::slow_link, "slow-link", per::step, 0.0002, "Whatever crosses between two processes takes up to 500 ms longer, for up to 8 s."},
  {f::refuse_frame, "refuse-frame", per::stage, 0.01, "A receiver finds the first bucket damaged."},
  {f::stage_full, "stage-full", per::stage, 0.01, "Memory or disk is full while a delta is staged."},
  {f::fail_before, "fail-before", per::write, 0.01, "The engine does not stop: the write fails before a byte is written."},
  {f::fail_middle, "fail-middle", per::write, 0.02, "The write fails with a part of the frames written."},
  {f::fail_after, "fail-after", per::write, 0.01, "The engine refuses the bytes after all are written."},
  {f::lie, "lie", per::write, 0.005, "A receiver says ok without having written a byte; of a full transfer, not all."},
  {f::encode_fail, "encode-fail", per::sync, 0.01, "The trainer's tensors cannot be read."},
  {f::crash_receiver, "crash-receiver", per::step, 0.0003, "A receiver's process ends; it comes back with its bytes as they are, torn, or an old checkpoint's."},
  {f::crash_writing, "crash-writing", per::write, 0.01, "A receiver's process ends with a part of the frames written."},
  {f::crash_trainer, "crash-trainer", per::step, 0.0001, "The trainer's process ends and comes back from any checkpoint."},
  {f::zombie_trainer, "zombie-trainer", per::step, 0.00005, "Another trainer starts from any checkpoint, and the old one goes on."},
  {f::kill_actor, "kill-actor", per::step, 0.0001, "One of the trainer's actors ends."},
  {f::false_down, "false-down", per::step, 0.0002, "The trainer is told that a receiver ended, which may not be so."},
  {f::attach, "attach", per::step, 0.0001, "A receiver that was not there before attaches, or one that left comes back."},
  {f::detach, "detach", per::step, 0.0001, "A receiver leaves."},
  {f::slow_receiver, "slow-receiver", per::step, 0.0003, "A receiver's process stands still for up to 4 s, at times 20 s."},
  {f::slow_trainer, "slow-trainer", per::step, 0.0001, "The trainer's process stands still for up to 4 s, at times 20 s."},
  {f::clock_jump, "clock-jump", per::step, 0.00005, "All clocks jump ahead by up to 60 s."},
  {f::rot, "rot", per::step, 0.0001, "One bit of a receiver's weights flips in memory."},
  {f::hurry, "hurry", per::sync, 0.1, "The training loop has its next weights up to 3 s after it asked, and wants no wait for who failed."},
  {f::truncate, "truncate", per::message, 0.003, "The message ends before its end."},
  {f::flap, "flap", per::step, 0.0001, "What crosses between two processes is cut off and let through in turn, each for up to 400 ms, for up to 8 s."},
  {f::swizzle, "swizzle", per::step, 0.00005, "About half of the receivers are cut off from everybody, one after the other, and come back in another order, within 8 s."},
  {f::late_rank, "late-rank", per::rank, 0.02, "A rank of the trainer that does not lead comes to the sync up to 12 s late."},
  {f::absent_rank, "absent-rank", per::rank, 0.01, "Such a rank leaves the sync out."},
  {f::odd_rank, "odd-rank", per::rank, 0.01, "Such a rank calls the sync by another label than the others."},
  {f::slow_stage, "slow-stage", per::sync, 0.02, "The snapshot is up to 4 s, at times 20 s, late in staging a delta."},
  {f::refuse_delta, "refuse-delta", per::sync, 0.01, "The snapshot finds the delta damaged that receivers are sent."},
};
// clang-format on
static_assert(std::size(table) == fault_count);

std::uint64_t threshold_of(double rate) {
  if (rate <= 0) return 0;
  if (rate >= 1) return ~std::uint64_t{0};
  return static_cast<std::uint64_t>(std::ldexp(rate, 64));
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view blank = " \t\r";
  const auto first = text.find_first_not_of(blank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(blank) - first + 1);
}

}  // namespace

std::string_view to_string(per unit) noexcept {
  constexpr std::array<std::string_view, 7> names{"message", "bucket", "stage", "write",
                                                  "sync",    "step",   "rank"};
  return names[static_cast<std::size_t>(unit)];
}

std::span<const fault_row> fault_table() noexcept {
  return table;
}

const fault_row* find_fault(std::string_view name) noexcept {
  const auto found = std::ranges::find(table, name, &fault_row::name);
  return found == std::end(table) ? nullptr : found;
}

fault_rates::fault_rates() {
  for (const auto& row : table) (*this)[row.id] = row.rate;
}

void set_rate(fault_rates& rates, std::string_view text) {
  if (trimmed(text) == "none") {
    rates.rate.fill(0);
    return;
  }
  const auto equals = text.find('=');
  const auto name = trimmed(text.substr(0, equals));
  const auto value =
      equals == std::string_view::npos ? std::string_view{} : trimmed(text.substr(equals + 1));
  if (name == "swarm") {
    if (value != "on" && value != "off") throw error(errc::bad_input, "swarm is on or off");
    rates.swarm = value == "on";
    return;
  }
  const auto* row = find_fault(name);
  if (!row)
    throw error(errc::bad_input,
                "no fault is named '" + printable(name) + "'; see lockstep sim --list-faults");
  double rate = 0;
  const auto [rest, failed] = std::from_chars(value.data(), value.data() + value.size(), rate);
  if (failed != std::errc{} || rest != value.data() + value.size() || !(rate >= 0 && rate <= 1))
    throw error(errc::bad_input, std::string(name) + " must be a number from 0 to 1");
  rates[row->id] = rate;
}

void read_rates(fault_rates& rates, const std::string& text, const std::string& name) {
  std::size_t number = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto end = std::min(text.find('\n', at), text.size());
    auto line = std::string_view(text).substr(at, end - at);
    at = end + 1;
    ++number;
    line = trimmed(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    try {
      set_rate(rates, line);
    } catch (const error& e) {
      throw error(e.code(), name + ":" + std::to_string(number) + ": " + e.what());
    }
  }
}

std::string to_string(fault_id id) {
  return std::string(table[static_cast<std::size_t>(id)].name);
}

std::string to_string(const strike& s) {
  return std::string(table[static_cast<std::size_t>(s.first)].name) + ':' +
         std::to_string(s.second);
}

std::optional<strike> parse_strike(std::string_view text) {
  const auto colon = text.find(':');
  if (colon == std::string_view::npos) return std::nullopt;
  const auto* row = find_fault(text.substr(0, colon));
  std::uint32_t index = 0;
  const auto number = text.substr(colon + 1);
  const auto [rest, failed] = std::from_chars(number.data(), number.data() + number.size(), index);
  if (!row || failed != std::errc{} || rest != number.data() + number.size()) return std::nullopt;
  return strike{row->id, index};
}

dice::dice(std::uint64_t seed, const fault_rates& rates,
           const std::optional<std::set<strike>>& keep)
    : seed_(mix(seed, 0xd1ce)), keep_(keep) {
  constexpr std::array<double, 6> factors{0, 0, 0, 1, 1, 4};
  for (const auto& row : table) {
    auto rate = rates[row.id];
    if (rates.swarm)
      rate *= factors[mix(seed_, 1, static_cast<std::uint64_t>(row.id)) % factors.size()];
    auto& k = kinds_[static_cast<std::size_t>(row.id)];
    k.threshold = threshold_of(rate);
    if (row.unit == per::step) {
      const auto sum = step_threshold_ + k.threshold;
      step_threshold_ = sum < step_threshold_ ? ~std::uint64_t{0} : sum;
    }
  }
}

bool dice::happens(fault_id id) {
  auto& k = kinds_[static_cast<std::size_t>(id)];
  const strike s{id, k.drawn++};
  k.parameters = 0;
  if (keep_ && !keep_->contains(s)) return false;
  ++k.happened;
  struck_.push_back(s);
  return true;
}

bool dice::strikes(fault_id id) {
  auto& k = kinds_[static_cast<std::size_t>(id)];
  if (stopped_ || k.threshold == 0) return false;
  if (mix(seed_ + static_cast<std::uint64_t>(id), ++k.opportunities) >= k.threshold) return false;
  return happens(id);
}

std::optional<fault_id> dice::at_step() {
  if (stopped_) return std::nullopt;
  auto drawn = mix(seed_ + 1000, ++steps_);
  if (drawn >= step_threshold_) return std::nullopt;
  for (const auto& row : table) {
    if (row.unit != per::step) continue;
    const auto share = kinds_[static_cast<std::size_t>(row.id)].threshold;
    if (drawn < share) return happens(row.id) ? std::optional(row.id) : std::nullopt;
    drawn -= share;
  }
  return std::nullopt;
}

std::uint64_t dice::below(fault_id id, std::uint64_t bound) {
  auto& k = kinds_[static_cast<std::size_t>(id)];
  return mix(mix(seed_ + 2000, static_cast<std::uint64_t>(id), k.drawn), ++k.parameters) % bound;
}

}  // namespace lockstep::sim
