// Decides how peers are served that say one thing at a time and wait for its answer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "messages/wire.hpp"
#include "transport/acceptor.hpp"

namespace lockstep {

/// Listens from construction to destruction. A peer, known by role, id and name, has one
/// connection, its newest, for ten seconds at most; a message of more than `self.control_bytes_max`
/// ends it. Thread-safe.
class answering_port {
 public:
  /// The answer to what a peer says; nothing closes its connection. Called from one thread, which
  /// handshakes do not wait for; must not throw.
  using answer_handler =
      std::function<std::optional<wire_message>(const greeting& peer, const wire_message& said)>;

  /// Throws as `acceptor`. Of those that `admit` lets in only control channels are served.
  answering_port(std::shared_ptr<const security> guard, acceptor_options options,
                 acceptor::admit_handler admit, answer_handler answer, log_function log);
  answering_port(const answering_port&) = delete;
  answering_port& operator=(const answering_port&) = delete;
  /// Closes; the handlers run no more once it returns.
  ~answering_port();

  std::uint16_t port() const noexcept;

 private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace lockstep
