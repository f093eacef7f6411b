// Decides how hosts that follow a published stream say over a connection what they would say in a
// file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/settings.hpp"
#include "messages/from_receiver.hpp"
#include "weights/acknowledgement.hpp"

namespace spdlog {
class logger;
}

namespace lockstep {

/// What a host says over a connection: the answer to the commit of a version, under its
/// challenge, which tells this publication of the version from any other, as a run does.
reply_msg reply_of(std::uint64_t cluster, const acknowledgement& what);
/// Likewise what was said; nothing where that is no acknowledgement.
std::optional<acknowledgement> acknowledgement_in(const reply_msg& m);

/// Takes acknowledgements over connections and puts each where its host's file would stand, before
/// it answers with a `welcome_msg` that names the challenge: so they outlive this process like
/// files, and who is not answered says it again. Hosts are known by the name of the handshake,
/// which certificates prove. Thread-safe.
class published_inbox {
 public:
  /// Listens at `at`, HOST:PORT, until it is destroyed; `names` may say something, in `acks`.
  /// `options`: `cluster.name` and `transport.*`. Throws `error{bad_setting}`,
  /// `error{unreachable}` naming the address, `error{bad_input}` for one that is none.
  published_inbox(const std::string& at, const settings& options, std::vector<std::string> names,
                  std::filesystem::path acks, std::shared_ptr<spdlog::logger> log);
  ~published_inbox();

  std::uint16_t port() const noexcept;

 private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace lockstep
