// Decides when hosts that follow a published stream hold a version, from what they say in files and
// over connections.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "actors/published_inbox.hpp"
#include "actors/published_trainer.hpp"
#include "messages/report.hpp"
#include "protocol/join_fsm.hpp"
#include "weights/acknowledgement.hpp"
#include "weights/published.hpp"
#include "weights/publisher.hpp"

namespace lockstep {

/// The sync protocol where the only link is a directory. Publishing a version is the decision: it
/// can be called back no more, and hosts prove base and payload before they write. Each then says
/// in a file of its own, or over a connection, what it holds, proven under a challenge that the
/// version carries. Who does not in time, or proves other bytes, is out of the view until it proves
/// the newest version; who cannot get there by deltas is the reason for a full version. Not
/// thread-safe.
class published_fleet {
 public:
  /// Throws `error`: `bad_input` for a name that is none or is there twice, and as `publisher` and
  /// `published_inbox`.
  explicit published_fleet(published_fleet_options options);

  /// What a host that holds a version must say.
  struct answer {
    std::uint64_t version = 0;
    std::uint64_t challenge = 0;
    digest proof;
    digest state;      ///< of the same bytes, under the public key
    std::string seal;  ///< if not empty both are unknown, and this is `seal_of` of the proof
  };

  /// A version that is published and not yet acknowledged.
  struct pending {
    published_version version;
    struct answer answer;
    sync_report report;
    std::chrono::steady_clock::time_point started;
  };

  /// Publishes `target`, whose `label` is the trainer's own number; `base` is what `held()` names.
  /// `full`: with all weights, whatever `base` is.
  /// Both have been read when it returns. Throws as `publisher::add`; nothing is published then.
  pending publish(const published_source& base, const published_source& target, std::uint64_t label,
                  bool full = false);

  /// Waits for who is in the view, then has `advance` make the snapshot the target, then brings
  /// back whom it can. What happens to hosts is in the report; a host that says nothing costs the
  /// set times, no more. `advance` is called at most once, and not if the wait was `stopped`
  /// (`shut_down`): then the version stays published, and `held()` what it was. It returns what to
  /// publish a full version from. What it throws goes on, with `held()` what it was. A version that
  /// an earlier process concluded is not asked for again.
  sync_report conclude(pending p, const std::function<published_source()>& advance);

  /// Who is not waited for, having failed and not proven the newest version since.
  std::vector<std::string> absent() const;
  /// The version that is the base of the next one.
  std::uint64_t held() const noexcept { return held_; }
  /// Says what the base of the next version is, where that is none that this has published.
  void hold(std::uint64_t version) noexcept { held_ = version; }
  version_ref name_of(std::uint64_t version) const { return {cluster_, version}; }
  const version_publisher& stream() const noexcept { return *stream_; }
  spdlog::logger& log() const noexcept { return *log_; }
  /// The port on which hosts are listened to; 0: none.
  std::uint16_t port() const noexcept { return inbox_ ? inbox_->port() : std::uint16_t{0}; }

 private:
  struct host {
    participant who;
    std::string name;
    bool member = true;             // waited for
    bool needs_whole = false;       // no delta leads it on
    std::uint64_t given_whole = 0;  // the full version that was published for it last
    std::uint64_t proven = 0;       // the newest version that it proved
    std::string unreadable;         // why its file says nothing
  };

  std::vector<participant> view() const;
  host& host_of(const participant& who);
  std::uint64_t slowest() const;
  bool has_meaning_for_some(std::uint64_t version) const;
  bool is_concluded(const published_version& version) const;
  answer answer_to(std::uint64_t version, const published_source& target) const;
  std::optional<acknowledgement> heard_of(host& from) const;
  /// Nothing if it was `stopped`.
  std::optional<round_result> ask(const answer& wanted, std::vector<participant> who);
  bool is_stopped() const;
  bool is_hurried() const;
  void settle(const outcome& o, sync_report& report);
  /// Who gives that answer is in the view again; who cannot is noted.
  void take_back(const answer& wanted);
  void recover(sync_report& report, const published_source& source);
  void reseed(sync_report& report, const published_source& source);

  published_fleet_options options_;
  std::vector<host> hosts_;
  std::unique_ptr<version_publisher> stream_;
  join_fsm join_;
  std::uint64_t held_ = 0;
  std::vector<answer> current_;  // any of them proves what `held_` names
  std::uint64_t cluster_ = 0;
  std::shared_ptr<spdlog::logger> log_;
  std::unique_ptr<published_inbox> inbox_;
};

}  // namespace lockstep
