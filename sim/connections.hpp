// Decides how the ranks of a simulated trainer speak to each other: over connections, which deliver
// everything in order, or end.
#pragma once

#include <caf/actor_proxy.hpp>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "actors/rank.hpp"
#include "sim/network.hpp"

namespace lockstep::sim {

/// What a rank's link to the coordinator is in reality (actors/rank_links.cpp): what is lost or
/// damaged on its way is sent again, so it comes late, or the connection ends. Each of its two ends
/// learns of that in its own time.
class connections {
 public:
  /// `silence_max`: how long an end may hear nothing until it gives the connection up.
  connections(scheduler& on, dice& chance, trace& log, directory& who, network& cables,
              std::chrono::milliseconds silence_max, std::uint64_t seed);
  ~connections();

  /// Dials as `rank`; a `rank_dialed` comes of it.
  void dial(endpoint rank, endpoint coordinator, const rank_actor& me);
  /// Those of a process that has ended, or that nobody has heard for long.
  void end_of(endpoint process);
  /// One of those of a process; false: it has none.
  bool break_one(endpoint process);
  /// Messages on their way.
  std::size_t under_way() const noexcept;

 private:
  class proxy;
  friend class proxy;
  struct letter {
    time_point sent;
    time_point arrives;
    std::vector<std::byte> bytes;
  };
  /// One direction, and what the one who speaks holds in place of the other.
  struct end {
    endpoint owner = 0;
    caf::strong_actor_ptr handle;
    std::deque<letter> letters;  ///< said here, not yet there
    bool pumping = false;        ///< the first of them is due to arrive
    bool closed = false;         ///< the owner knows that it has ended
  };
  struct connection {
    std::uint64_t number = 0;
    end rank, coordinator;
    caf::actor asker;  ///< who gave the last task
    bool up = true;

    end& of(bool at_rank) { return at_rank ? rank : coordinator; }
  };
  using shared = std::shared_ptr<connection>;

  bool can_reach(endpoint from, endpoint to);
  void connect(endpoint rank, endpoint coordinator, const rank_actor& me);
  void say(const shared& c, bool at_rank, const caf::strong_actor_ptr& sender,
           const caf::message& content);
  void pump(const shared& c, bool at_rank);
  void hand_in(const shared& c, bool at_rank, const letter& l);
  /// Nothing crosses any more; each end is told in a while.
  void finish(const shared& c);
  void close(const shared& c, bool at_rank);
  void forget();

  scheduler& scheduler_;
  dice& dice_;
  trace& trace_;
  directory& directory_;
  network& network_;
  std::chrono::milliseconds silence_max_;
  random_stream random_;
  std::vector<shared> all_;
  std::uint64_t number_ = 0;
};

}  // namespace lockstep::sim
