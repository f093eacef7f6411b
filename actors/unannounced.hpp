// Decides what becomes of buckets that come to a receiver before what announces them. Private to
// actors/.
#pragma once

#include <caf/actor_control_block.hpp>
#include <cstdint>
#include <map>
#include <utility>

#include "actors/engine.hpp"
#include "config/settings.hpp"
#include "messages/to_receiver.hpp"

namespace lockstep {

/// Buckets of one transaction that nobody has announced to this receiver: of a delta that is still
/// being encoded, or over another connection than their announcement. Nothing is believed of them:
/// once announced they are taken as if they had come just then. As far as they can they are staged
/// meanwhile.
class unannounced {
 public:
  struct bucket {
    payload bytes;
    caf::strong_actor_ptr from;  ///< whom the credit for it is due
    bool staged = false;         ///< over what `engine` holds; its credit was given
  };

  bool is_of(const envelope& env) const { return env == env_; }
  /// Nothing newer is kept, nor this one.
  bool lacks(const envelope& env, std::uint32_t index) const {
    return !(env.txn < env_.txn) && !(is_of(env) && buckets_.contains(index));
  }

  /// Keeps a bucket, within what the settings let a receiver stage; what was kept of an earlier
  /// transaction is forgotten. `stages`: the engine may stage it now. True: it has, so its credit
  /// is due. What is not kept is missing when it is announced.
  bool take(const bucket_msg& m, caf::strong_actor_ptr from, bool stages, const settings& s,
            engine& engine);

  /// `env` is about to be announced: what is kept of another goes. What was staged of this one
  /// counts only where it is a delta of at least these buckets: `content`, or null.
  void make_way(const envelope& env, const manifest* content, engine& engine);

  /// By index. Nothing is kept from here on; what is staged stays staged.
  std::map<std::uint32_t, bucket> release() { return std::exchange(*this, unannounced()).buckets_; }
  void forget(engine& engine);

 private:
  /// Whose credit was not given: more than any trainer sends without.
  static constexpr std::size_t unpaid_max = 1'024;

  envelope env_;
  std::map<std::uint32_t, bucket> buckets_;
  std::uint64_t bytes_ = 0;
  bool staged_ = false;  ///< some of them are
};

}  // namespace lockstep
