// Decides how a test plays one actor's neighbours by hand.
#pragma once

#include <caf/scoped_actor.hpp>
#include <caf/send.hpp>
#include <memory>
#include <optional>
#include <vector>

#include "actors/fleet.hpp"
#include "actors/runtime_parts.hpp"

namespace lockstep {

/// The next message to somebody whom the test plays, which must be a `M`; nothing if none comes.
template <class M>
std::optional<M> next_of(caf::scoped_actor& whom, std::chrono::milliseconds patience = 10s) {
  std::optional<M> out;
  whom->receive([&](M& m) { out = std::move(m); }, caf::after(patience) >> [] {});
  return out;
}

/// An actor system, the test as one of its actors, and what an actor of it is given.
struct stage {
  explicit stage(std::uint32_t credit = 1) {
    auto made = std::make_shared<actor_env>(*rt.inside().env);
    made->options.bucket.credit = credit;
    env = std::move(made);
  }
  ~stage() {
    for (const auto& actor : spawned) caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
  }

  /// An actor that ends with the stage.
  template <class Behavior, class... Args>
  auto spawn(Behavior behavior, Args... args) {
    auto out = rt.inside().system->spawn(behavior, std::move(args)...);
    spawned.push_back(caf::actor_cast<caf::actor>(out));
    return out;
  }
  /// The next to the test itself.
  template <class M>
  std::optional<M> next(std::chrono::milliseconds patience = 10s) {
    return next_of<M>(test, patience);
  }

  runtime rt{quiet()};
  std::shared_ptr<const actor_env> env;
  caf::scoped_actor test{*rt.inside().system};
  std::vector<caf::actor> spawned;
};

}  // namespace lockstep
