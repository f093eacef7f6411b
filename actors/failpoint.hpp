// Decides where this process ends as by kill -9, for drills and tests: at one step of an actor.
// Private to actors/.
#pragma once

#include <atomic>
#include <boost/type_index.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace lockstep {

/// Before a step is performed, when half of its bytes are written, or after it.
enum class moment : std::uint8_t { before, during, after };

/// The end that `drill.kill_at` asks for. Thread-safe.
class failpoint {
 public:
  /// Reads `ACTOR.STEP:MOMENT` or `ACTOR.STEP:MOMENT:N`, for the N-th time that it comes to that.
  /// Throws `setting_error`, which lists what there is, for anything else.
  explicit failpoint(std::string_view text);

  /// Ends this process at once, with nothing flushed and nobody told, if this is the point.
  void pass(std::string_view step, moment now) noexcept {
    if (strikes(step, now)) end_process();
  }
  /// The same for an action of a machine.
  template <class... Actions>
  void pass(const std::variant<Actions...>& action, moment now) noexcept {
    if (now == when_) std::visit([&](const auto& a) { pass(name_of(a), now); }, action);
  }
  /// True if this is the point: the caller does what has to be done before the end.
  template <class Action>
  bool strikes(const Action& action, moment now) noexcept {
    return now == when_ && strikes(name_of(action), now);
  }

  [[noreturn]] static void end_process() noexcept;

  /// Every `ACTOR.STEP:MOMENT` that there is.
  static const std::vector<std::string>& all();

 private:
  bool strikes(std::string_view step, moment now) noexcept;
  /// "receiver.pause" for `lockstep::receiver_action::pause`.
  template <class Action>
  static std::string_view name_of(const Action&) {
    static const auto name = short_name(boost::typeindex::type_id<Action>().pretty_name());
    return name;
  }
  static std::string short_name(std::string_view full);
  template <class... Actions>
  static void list(const std::variant<Actions...>*, std::vector<std::string>& out);

  std::string step_;
  moment when_ = moment::before;
  std::atomic<std::uint64_t> left_{1};
};

}  // namespace lockstep
