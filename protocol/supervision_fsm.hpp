// Decides what happens to a receiver outside the view: when it is tried again, when it is
// restarted, and when it is given up. Pure.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "config/settings.hpp"
#include "messages/report.hpp"
#include "protocol/join_fsm.hpp"

namespace lockstep {

/// What the policy asks the supervisor to do, in this order.
namespace supervision_action {

/// Ask the sender to admit this life.
struct admit {
  participant who;
};
/// Tell the sender that this life has ended or left.
struct down {
  participant who;
  errc reason;
};
/// Start a new life of a receiver whose actor ended.
struct restart {
  receiver_id id;
};
/// Tell the sender and the log that this one stays out until it announces itself anew.
struct gave_up {
  receiver_id id;
  errc reason;
  std::string detail;
};

/// Tell the sender that no sync need wait for this one: it is silent, or some rank does not reach
/// it. It is tried again when it is heard of, and reached by all.
struct silent {
  receiver_id id;
};

using any = std::variant<admit, down, restart, gave_up, silent>;
using list = std::vector<any>;

}  // namespace supervision_action

/// Where a receiver stands with the supervisor.
enum class standing : std::uint8_t {
  member,       ///< takes part in syncs
  attaching,    ///< the sender is asked to admit it
  quarantined,  ///< failed; waits for its next try
  dead,         ///< its actor ended; waits to be restarted
  gave_up,      ///< the limit of tries or restarts is reached
  detached,     ///< left on purpose
};

std::string_view to_string(standing s) noexcept;

/// Bounded retries with exponential back-off, for every receiver apart. Tries count from the last
/// sync that it acknowledged, so that one which fails, is reseeded and fails again comes to its
/// limit too. Total, pure, not thread-safe.
class supervision_fsm {
 public:
  using actions = supervision_action::list;

  explicit supervision_fsm(const settings& s) : settings_(s) {}

  struct record {
    std::string name;
    incarnation inc;
    std::deque<incarnation> superseded;  ///< earlier lives, latest last; at most `superseded_max`
    standing where = standing::quarantined;
    errc reason = errc::none;
    std::string detail;
    errc last_reason = errc::none;  ///< why it failed last, also once it is a member again
    std::string last_detail;
    time_point last_failed;
    std::uint32_t attempts = 0;         ///< since the last sync that it acknowledged
    std::uint32_t restarts = 0;         ///< incarnations after the first
    std::uint32_t restarts_in_row = 0;  ///< since the last sync that it acknowledged
    bool parted = false;                ///< a rank of the trainer does not reach it,
    time_point parted_since;            ///< since then
    std::uint32_t reseeds = 0;
    std::uint32_t catch_ups = 0;
    time_point next_try;
    bool heard_since = true;  ///< since its last failure
    time_point last_heard;
    bool let_go = false;  ///< silent or parted, and no sync waits for it
    readiness state;
  };

  /// Receivers that are remembered: peers name themselves, and must not fill our memory.
  static constexpr std::size_t receivers_max = 65'536;
  static constexpr std::size_t superseded_max = 16;

  /// A life announces itself. An older life of the same receiver has thereby ended, and is not
  /// listened to again while the newer one is heard of. A life that was reported dead and speaks
  /// again is admitted anew.
  /// `parted`: not every rank of the trainer reaches it, so it is of no use before `on_reached`.
  actions on_hello(time_point now, const hello_msg& m, bool parted = false);
  actions on_pong(time_point now, const pong_msg& m);
  actions on_goodbye(time_point now, const goodbye_msg& m);
  /// Its actor or process ended. `restartable`: this supervisor can start a new life itself.
  actions on_down(time_point now, const participant& who, bool restartable);
  /// A rank of the trainer does not reach this life any more: no fault of its own, so no try is
  /// counted. It stays out until `on_reached`.
  actions on_parted(time_point now, const participant& who);
  /// All ranks reach it.
  actions on_reached(time_point now, const participant& who);
  actions on_admitted(time_point now, const participant& who, admission how);
  actions on_not_admitted(time_point now, const participant& who, errc reason, std::string detail);
  actions on_evicted(time_point now, const participant& who, errc reason, std::string detail);
  /// It acknowledged a sync: the count of its failures starts anew.
  actions on_acknowledged(receiver_id id);
  /// A new run of the sender: nobody is a member of it yet.
  actions on_new_run(time_point now);
  actions on_tick(time_point now);

  /// When `on_tick` has something to do, if nothing is heard before.
  std::optional<time_point> deadline(time_point now) const;
  const std::map<receiver_id, record>& records() const noexcept { return records_; }

 private:
  record* find(const participant& who);
  actions failed(time_point now, receiver_id id, record& r, errc reason, std::string detail);
  actions heard(time_point now, receiver_id id, record& r);
  bool heard_lately(time_point now, const record& r) const;
  bool would_answer(time_point now, const record& r) const;
  time_point patience_ends(const record& r) const;

  settings settings_;
  std::map<receiver_id, record> records_;
};

}  // namespace lockstep
