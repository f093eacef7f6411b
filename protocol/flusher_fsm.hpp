// Decides when the next bucket may leave: at most `bucket.credit` of them are under way to one
// receiver. Its opinion is never success; only votes and acknowledgements are.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "messages/from_receiver.hpp"
#include "messages/to_receiver.hpp"

namespace lockstep {

/// One stream of buckets to one receiver. Pure, total, not thread-safe.
class flusher_fsm {
 public:
  explicit flusher_fsm(std::uint32_t credit) : credit_(credit) {}

  /// Starts a stream of `count` buckets, dropping any before it; returns those to send now.
  std::vector<std::uint32_t> on_start(const envelope& env, std::uint32_t count) {
    env_ = env;
    count_ = count;
    next_ = 0;
    taken_.assign(count, false);
    taken_count_ = 0;
    return fill();
  }

  /// The receiver took a bucket; returns those to send now. Credits of another stream, for a bucket
  /// that was not sent, or given twice, are ignored: a peer cannot widen the window.
  std::vector<std::uint32_t> on_credit(const credit_msg& m) {
    if (!env_ || !(m.env == *env_) || m.index >= next_ || taken_[m.index]) return {};
    taken_[m.index] = true;
    ++taken_count_;
    return fill();
  }

  void on_stop() { env_.reset(); }

  /// Every bucket was sent and taken.
  bool drained() const { return env_ && taken_count_ == count_; }
  bool streaming() const { return env_.has_value(); }

 private:
  std::vector<std::uint32_t> fill() {
    std::vector<std::uint32_t> out;
    while (next_ < count_ && next_ - taken_count_ < credit_) out.push_back(next_++);
    return out;
  }

  std::uint32_t credit_;
  std::optional<envelope> env_;
  std::uint32_t count_ = 0;
  std::uint32_t next_ = 0;
  std::vector<bool> taken_;
  std::uint32_t taken_count_ = 0;
};

}  // namespace lockstep
