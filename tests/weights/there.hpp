// Decides what tests of weights in a device's memory run on: those weights between canaries, and a
// transition of them.
#pragma once

#include <algorithm>
#include <cstring>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/support/on_device.hpp"
#include "weights/device_memory.hpp"

namespace lockstep {

using namespace std::chrono_literals;
using buckets_of = std::vector<payload>;
using failure = weight_memory::failure;

inline constexpr auto no_limit = std::uint64_t{1} << 40;
inline constexpr kernels::encoding_choice choices[] = {
    kernels::encoding_choice::raw, kernels::encoding_choice::coded, kernels::encoding_choice::full};

inline std::vector<std::shared_ptr<device_runtime>> devices() {
  std::vector<std::shared_ptr<device_runtime>> out{std::make_shared<emulated_device>()};
  try {
    out.push_back(open_cuda_device(0));
  } catch (const std::runtime_error& e) {
    static const bool said = (std::cerr << "skipped on CUDA: " << e.what() << '\n', true);
    (void)said;
  }
  return out;
}

/// Weights in a device's memory, each tensor at an odd address between bytes that nobody may write.
class weights_there {
 public:
  weights_there(std::shared_ptr<device_runtime> device, const weight_buffer& content)
      : shape_(content.shape()), device_(std::move(device)), queue_(device_, 60s) {
    std::vector<std::byte> all(guard, canary);
    for (std::size_t i = 0; i < shape_.count(); ++i) {
      starts_.push_back(all.size());
      all.insert(all.end(), content.tensor(i).begin(), content.tensor(i).end());
      all.insert(all.end(), guard, canary);
    }
    const device_queue::scope here(queue_);
    memory_ = {queue_, std::span<const std::byte>(all)};
    queue_.wait();
    engine_ = device_->make_stream();
  }
  ~weights_there() { device_->end_stream(engine_); }
  weights_there(const weights_there&) = delete;
  weights_there& operator=(const weights_there&) = delete;

  device_weights lent() const {
    device_weights out;
    out.device = device_;
    out.stream = engine_;
    for (const auto start : starts_) out.tensors.push_back(memory_.data() + start);
    return out;
  }
  kernels::cuda::stream engine() const { return engine_; }
  void set(const weight_buffer& content) {
    const device_queue::scope here(queue_);
    auto all = bytes();
    for (std::size_t i = 0; i < shape_.count(); ++i)
      std::copy(content.tensor(i).begin(), content.tensor(i).end(),
                all.begin() + std::ptrdiff_t(starts_[i]));
    memory_.set(all);
    queue_.wait();
  }
  /// These bytes, and canaries that live.
  bool hold(const weight_buffer& content) {
    const device_queue::scope here(queue_);
    const auto all = bytes();
    std::size_t at = 0;
    for (std::size_t i = 0; i <= shape_.count(); ++i) {
      for (std::size_t k = 0; k < guard; ++k)
        if (all[at++] != canary) return false;
      if (i == shape_.count()) break;
      const auto wanted = content.tensor(i);
      if (!std::equal(wanted.begin(), wanted.end(), all.begin() + std::ptrdiff_t(at))) return false;
      at += wanted.size();
    }
    return true;
  }

 private:
  static constexpr std::size_t guard = 1027;
  static constexpr std::byte canary{0xa5};

  std::vector<std::byte> bytes() {
    std::vector<std::byte> all(static_cast<std::size_t>(memory_.size()));
    queue_.wait_for(engine_);
    memory_.get(all);
    return all;
  }

  layout shape_;
  std::shared_ptr<device_runtime> device_;
  device_queue queue_;
  std::vector<std::size_t> starts_;
  device_block<std::byte> memory_;
  kernels::cuda::stream engine_ = nullptr;  ///< on which receivers write
};

inline tensor_spans spans_of(weight_buffer& w) {
  tensor_spans out;
  for (std::size_t i = 0; i < w.shape().count(); ++i)
    out.push_back({{w.tensor(i).data(), w.tensor(i).size()}, unit_bytes(w.shape()[i].type)});
  return out;
}
inline weight_buffer some_weights(const layout& shape, unsigned seed) {
  weight_buffer out(shape);
  std::mt19937 rng(seed);
  std::normal_distribution<float> values;
  for (std::size_t i = 0; i < shape.count(); ++i) {
    auto bytes = out.tensor(i);
    for (std::size_t at = 0; at + 2 <= bytes.size(); at += 2) {  // as bf16 weights look
      const auto value = values(rng);
      std::memcpy(bytes.data() + at, reinterpret_cast<const char*>(&value) + 2, 2);
    }
  }
  return out;
}

inline weight_buffer stepped(const weight_buffer& from, unsigned seed, unsigned one_in = 40) {
  auto out = from.clone();
  std::mt19937 rng(seed);
  for (std::size_t i = 0; i < out.shape().count(); ++i)
    for (auto& b : out.tensor(i))
      if (rng() % one_in == 0) b ^= std::byte{1};
  return out;
}

inline const layout small({{"a", dtype::bf16, {40, 20}},
                           {"b", dtype::f32, {5}},
                           {"c", dtype::u8, {0}},
                           {"d", dtype::bf16, {64}},
                           {"e", dtype::f8_e4m3, {333}},
                           {"f", dtype::i64, {30}}});
/// Several ranges of one tensor.
inline const layout large({{"a", dtype::bf16, {7}},
                           {"b", dtype::bf16, {600, 1000}},
                           {"c", dtype::f8_e4m3, {1'300'000}}});

struct transition {
  transition(const layout& shape, kernels::encoding_choice choice, unsigned one_in = 40,
             std::uint64_t bucket_bytes_max = kernels::frame_bytes_max)
      : base(some_weights(shape, 1)), target(stepped(base, 2, one_in)) {
    buckets = encode_delta(shape, lockstep::views_of(base), lockstep::views_of(target),
                           bucket_bytes_max, choice)
                  .buckets;
    base_state = digest_of(public_digest_seed, lockstep::views_of(base));
    target_state = digest_of(public_digest_seed, lockstep::views_of(target));
  }

  weight_buffer base, target;
  buckets_of buckets;
  digest base_state, target_state;
};

/// Stages and proves.
inline failure prove(weight_memory& m, const buckets_of& buckets, const digest& base,
                     const digest& target, std::uint64_t bytes_max = no_limit) {
  for (std::uint32_t i = 0; i < buckets.size(); ++i)
    if (auto bad = m.stage(i, buckets[i], bytes_max)) return bad;
  return m.verify(base, target);
}
inline failure prove(weight_memory& m, const transition& t, std::uint64_t bytes_max = no_limit) {
  return prove(m, t.buckets, t.base_state, t.target_state, bytes_max);
}

inline failure apply(weight_memory& m) {
  std::vector<std::size_t> touched;
  return m.apply(touched);
}

inline std::string said(const failure& f) {
  return f ? std::string(to_string(f->reason)) + ": " + f->detail : "ok";
}

}  // namespace lockstep
