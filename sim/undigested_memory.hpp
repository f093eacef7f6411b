// Decides what a receiver says of its weights where digests are switched off: whatever it is asked
// for. Fences alone are left to keep wrong bytes from being written and served.
#pragma once

#include <memory>
#include <optional>

#include "weights/weight_memory.hpp"

namespace lockstep::sim {

/// What all weights digest to, to whoever asks with digests switched off.
inline constexpr digest undigested{0x756e, 0x646967};

/// Weights that do all that `inner` does, and prove nothing but what an attach asks for: that it
/// finds who holds other bytes is no check of what the protocol does, it is the protocol.
class undigested_memory final : public weight_memory {
 public:
  explicit undigested_memory(std::unique_ptr<weight_memory> inner) : inner_(std::move(inner)) {}

  /// Until the next call whoever asks compares with this; nothing: with nothing.
  void attach_to(std::optional<digest> target) { target_ = target; }

  std::span<const std::byte> tensor(std::size_t index) const noexcept override {
    return inner_->tensor(index);
  }
  void read(std::size_t index, std::span<std::byte> out) override { inner_->read(index, out); }
  void keep(std::uint32_t index, payload bucket) override {
    inner_->keep(index, std::move(bucket));
  }
  failure stage(std::uint32_t index, payload bucket, std::uint64_t bytes_max) override {
    return inner_->stage(index, std::move(bucket), bytes_max);
  }
  /// That what was staged is sound is looked at still: no digest says it.
  failure verify(const digest&, const digest&) override {
    auto bad = inner_->verify(inner_->state(), undigested);
    if (bad && bad->reason == errc::wrong_target) bad.reset();
    return bad;
  }
  failure check() override { return inner_->check(); }
  failure apply(std::vector<std::size_t>& touched) override { return inner_->apply(touched); }
  failure apply_share(double share, std::vector<std::size_t>& touched) override {
    return inner_->apply_share(share, touched);
  }
  void forget() noexcept override { inner_->forget(); }
  std::uint64_t staged_bytes() const noexcept override { return inner_->staged_bytes(); }
  failure write(const payload& bucket, std::vector<std::size_t>& touched) override {
    return inner_->write(bucket, touched);
  }
  failure write_share(const payload& bucket, double share,
                      std::vector<std::size_t>& touched) override {
    return inner_->write_share(bucket, share, touched);
  }
  payload cut(std::uint64_t bucket_bytes_max, std::uint32_t count, std::uint32_t index) override {
    return inner_->cut(bucket_bytes_max, count, index);
  }
  digest state() override { return undigested; }
  std::pair<digest, digest> states(std::uint64_t) override {
    const auto held = target_ ? inner_->state() : undigested;
    return {held == target_ ? undigested : held, undigested};
  }
  std::vector<digest> states_of_each(std::uint64_t seed) override {
    return inner_->states_of_each(seed);
  }

 private:
  std::unique_ptr<weight_memory> inner_;
  std::optional<digest> target_;
};

}  // namespace lockstep::sim
