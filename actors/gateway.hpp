// Decides how this process is connected to others: where it listens, whom it lets in, how it dials.
// Private to actors/.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "actors/link.hpp"
#include "transport/acceptor.hpp"
#include "transport/address.hpp"
#include "transport/connector.hpp"
#include "transport/log_throttle.hpp"
#include "transport/members.hpp"

namespace lockstep {

/// The connections of one process. Thread-safe. Must be closed before the actor system ends.
class gateway {
 public:
  /// Takes a link whose channels are all there.
  using link_handler = std::function<void(link_channels)>;

  /// Throws `setting_error` or `error{bad_setting}` for settings that do not hold.
  explicit gateway(std::shared_ptr<const actor_env> env);
  ~gateway();

  /// Listens; `take` is called from a thread of the transport for each link. Throws `error`, naming
  /// the address, if it cannot be listened on.
  /// `as`: what this process shows itself as, which must be its certificate's. A trainer is found
  /// by receivers, its other ranks and who looks on; a receiver by receivers.
  void listen(const node_address& at, greeting as, link_handler take);
  /// The port that is listened on; 0: none yet.
  std::uint16_t port() const { return port_; }

  /// Throws `error{bad_setting}` where links without security must not lead to `host`.
  void check_host(const std::string& host) const { security_->check_host(host); }

  /// Throws `error{bad_setting}` if this process has a certificate that peers would not believe
  /// this of.
  void check_own(const greeting& as) const { security_->check_own(as); }

  /// Makes a link as `self` to one that must prove `expected`; `done` is called once, from a thread
  /// of the transport.
  void dial(const node_address& to, greeting self, node_role expected,
            std::function<void(link_channels, failure)> done);

  /// What every greeting of this process says.
  greeting own_greeting(node_role role) const;

  /// No callback runs once this has returned.
  void close();

 private:
  struct pending {
    link_channels channels;
    std::uint32_t streams = 0;
    time_point since;
  };
  struct dialing;
  void on_channel(std::shared_ptr<channel> c);
  void make_room(const greeting& newcomer);
  static void dial_next(std::shared_ptr<dialing> d);

  std::shared_ptr<const actor_env> env_;
  std::shared_ptr<security> security_;
  log_function log_;
  log_throttle seldom_{log_};
  const member_list members_;
  io_threads io_;
  std::unique_ptr<acceptor> acceptor_;
  std::atomic<std::uint16_t> port_ = 0;
  link_handler take_;
  std::mutex mutex_;
  std::map<incarnation, pending> pending_;
};

}  // namespace lockstep
