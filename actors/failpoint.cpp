#include "actors/failpoint.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "config/settings.hpp"
#include "messages/shards.hpp"
#include "protocol/receiver_fsm.hpp"
#include "protocol/supervision_fsm.hpp"
#include "protocol/sync_fsm.hpp"

namespace lockstep {

namespace {

constexpr std::string_view moments[] = {"before", "during", "after"};

}  // namespace

std::string failpoint::short_name(std::string_view full) {
  constexpr std::string_view space = "lockstep::";
  constexpr std::string_view parting = "_action::";
  if (full.starts_with(space)) full.remove_prefix(space.size());
  const auto at = full.find(parting);
  if (at == full.npos) return std::string(full);
  return fmt::format("{}.{}", full.substr(0, at), full.substr(at + parting.size()));
}

template <class... Actions>
void failpoint::list(const std::variant<Actions...>*, std::vector<std::string>& out) {
  (out.push_back(short_name(boost::typeindex::type_id<Actions>().pretty_name())), ...);
}

const std::vector<std::string>& failpoint::all() {
  static const auto made = [] {
    std::vector<std::string> steps;
    list(static_cast<const receiver_action::any*>(nullptr), steps);
    list(static_cast<const sync_action::any*>(nullptr), steps);
    list(static_cast<const supervision_action::any*>(nullptr), steps);
    steps.insert(steps.end(), {"snapshot.stage", "snapshot.advance"});
    for (int i = 0; i <= static_cast<int>(shard_task::last_); ++i)
      steps.push_back(fmt::format("rank.{}", to_string(static_cast<shard_task>(i))));
    std::vector<std::string> out;
    for (const auto& step : steps)
      for (const auto now : moments)
        if (now != "during" || step == "receiver.apply_slot")
          out.push_back(fmt::format("{}:{}", step, now));
    return out;
  }();
  return made;
}

failpoint::failpoint(std::string_view text) {
  const auto first = text.find(':');
  const auto second = first == text.npos ? text.npos : text.find(':', first + 1);
  const auto point = text.substr(0, second);
  bool good = std::ranges::find(all(), point) != all().end();
  if (good && second != text.npos) {
    const auto count = text.substr(second + 1);
    std::uint64_t n = 0;
    const auto [end, failed] = std::from_chars(count.data(), count.data() + count.size(), n);
    good = failed == std::errc{} && end == count.data() + count.size() && n > 0;
    left_ = n;
  }
  if (!good)
    throw setting_error(
        fmt::format("drill.kill_at is \"{}\", must be a point, or a point, a colon "
                    "and a number from 1, of these points: {}",
                    text, fmt::join(all(), " ")));
  step_ = text.substr(0, first);
  const auto when = point.substr(first + 1);
  when_ = static_cast<moment>(std::ranges::find(moments, when) - std::begin(moments));
}

bool failpoint::strikes(std::string_view step, moment now) noexcept {
  return now == when_ && step == step_ && left_.fetch_sub(1) == 1;
}

void failpoint::end_process() noexcept {
  for (;;) {
    ::kill(::getpid(), SIGKILL);
    ::pause();
  }
}

}  // namespace lockstep
