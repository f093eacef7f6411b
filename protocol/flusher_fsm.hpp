// Decides when the next bucket may leave: at most `bucket.credit` of them are under way to one
// receiver. Its opinion is never success; only votes and acknowledgements are.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "messages/from_receiver.hpp"
#include "messages/to_receiver.hpp"

namespace lockstep {

/// One stream of buckets to one receiver, some of which others may bring. Pure, total, not
/// thread-safe.
class flusher_fsm {
 public:
  explicit flusher_fsm(std::uint32_t credit) : credit_(credit) {}

  /// The first `count` buckets of a stream of which more are to come; returns those to send now.
  /// What is under way of another is not dropped for it: then nothing.
  std::vector<std::uint32_t> on_ahead(const envelope& env, std::uint32_t count) {
    if (env_ && !(ahead_ && *env_ == env)) return {};
    if (!env_) on_start(env, 0);
    ahead_ = true;
    if (count > buckets_.size()) buckets_.resize(count, state::ours);
    return fill();
  }

  /// Starts a stream of `count` buckets, dropping any before it; returns those to send now. Of one
  /// that has begun ahead the rest. `elsewhere`, of `count` or none: others bring this one, it does
  /// not leave before `on_ours`.
  std::vector<std::uint32_t> on_start(const envelope& env, std::uint32_t count,
                                      const std::vector<bool>& elsewhere = {}) {
    const bool begun = std::exchange(ahead_, false) && *env_ == env;
    if (begun && count >= buckets_.size()) {
      buckets_.resize(count, state::ours);
      return fill();
    }
    env_ = env;
    next_ = 0;
    under_way_ = 0;
    taken_count_ = 0;
    buckets_.assign(count, state::ours);
    for (std::size_t i = 0; i < elsewhere.size() && i < count; ++i)
      if (elsewhere[i]) buckets_[i] = state::elsewhere;
    return fill();
  }

  /// These are ours to send after all, unless the receiver has them; returns those to send now.
  std::vector<std::uint32_t> on_ours(std::span<const std::uint32_t> indices) {
    if (!env_) return {};
    for (const auto i : indices) {
      if (i >= buckets_.size() || buckets_[i] != state::elsewhere) continue;
      buckets_[i] = state::fallen_to_us;
      next_ = std::min(next_, i);
    }
    return fill();
  }

  /// From now on others bring this one; false if it has been sent, or was not ours.
  bool on_elsewhere(std::uint32_t index) {
    if (!env_ || index >= buckets_.size() || buckets_[index] != state::ours) return false;
    buckets_[index] = state::elsewhere;
    return true;
  }

  /// The receiver took a bucket; returns those to send now. Credits of another stream, for a bucket
  /// that nobody has sent, or given twice, are ignored: a peer cannot widen the window.
  std::vector<std::uint32_t> on_credit(const credit_msg& m) {
    if (!env_ || !(m.env == *env_) || m.index >= buckets_.size()) return {};
    auto& b = buckets_[m.index];
    if (b == state::ours || b == state::taken) return {};
    if (b == state::sent) --under_way_;
    b = state::taken;
    ++taken_count_;
    return fill();
  }

  void on_stop() {
    env_.reset();
    ahead_ = false;
  }

  /// Others are to bring this one, and the receiver has not got it yet.
  bool awaited(std::uint32_t index) const { return is(index, state::elsewhere); }
  /// Others are to bring it, or were to and may yet: it has neither left here nor been taken.
  bool unsent(std::uint32_t index) const {
    return awaited(index) || is(index, state::fallen_to_us);
  }
  /// Every bucket was sent and taken.
  bool drained() const { return env_ && !ahead_ && taken_count_ == buckets_.size(); }
  bool streaming() const { return env_.has_value(); }
  /// Buckets that were sent and not taken: never more than the credit.
  std::uint32_t under_way() const noexcept { return under_way_; }

 private:
  enum class state : std::uint8_t { ours, elsewhere, fallen_to_us, sent, taken };

  bool is(std::uint32_t index, state what) const {
    return env_ && index < buckets_.size() && buckets_[index] == what;
  }

  std::vector<std::uint32_t> fill() {
    std::vector<std::uint32_t> out;
    for (; next_ < buckets_.size() && under_way_ < credit_; ++next_) {
      auto& b = buckets_[next_];
      if (b != state::ours && b != state::fallen_to_us) continue;
      b = state::sent;
      ++under_way_;
      out.push_back(next_);
    }
    return out;
  }

  std::uint32_t credit_;
  std::optional<envelope> env_;
  bool ahead_ = false;  ///< of `env_`, more buckets are to come
  std::vector<state> buckets_;
  std::uint32_t next_ = 0;  ///< none that is to be sent is before this
  std::uint32_t under_way_ = 0;
  std::size_t taken_count_ = 0;
};

}  // namespace lockstep
