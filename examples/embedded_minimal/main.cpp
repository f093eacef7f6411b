// Both sides of Lockstep in the smallest program that does something; docs/embedding.md explains
// it.
#include <array>
#include <condition_variable>
#include <cstdint>
#include <iostream>
#include <lockstep/lockstep.hpp>
#include <mutex>
#include <span>
#include <vector>

using namespace std::chrono_literals;

/// What a real engine would be: it has weights in its own memory and steps on its own thread.
class inference_engine {
 public:
  inference_engine(lockstep::runtime& on, const lockstep::layout& model, lockstep::receiver_id id)
      : receiver_(on, model, options(id)) {}

  /// One step: never on weights that are being written, never on weights that were never sent.
  float step() {
    std::unique_lock lock(mutex_);
    running_.wait(lock, [&] { return !paused_; });
    return weights_[0] * 2;
  }

  const lockstep::receiver& receiver() const { return receiver_; }

 private:
  lockstep::receiver_options options(lockstep::receiver_id id) {
    lockstep::receiver_options out;
    out.id = id;
    out.memory = {std::as_writable_bytes(std::span(weights_))};
    out.hooks.pause = [this] {
      const std::lock_guard lock(mutex_);  // returns when no step is under way
      paused_ = true;
    };
    out.hooks.resume = [this](lockstep::version_ref, std::uint64_t) {
      const std::lock_guard lock(mutex_);
      paused_ = false;
      running_.notify_all();
    };
    return out;
  }

  std::array<float, 256> weights_{};
  std::mutex mutex_;
  std::condition_variable running_;
  bool paused_ = true;
  lockstep::receiver receiver_;  // the last member: it is gone before what its hooks use
};

/// Tensors that a framework has on a device, in canonical order, and the stream that it works on.
template <class DLTensor>
lockstep::device_weights on_device(const lockstep::layout& model,
                                   const std::vector<DLTensor>& tensors, CUstream_st* stream) {
  lockstep::device_weights out;
  out.device = lockstep::open_cuda_device(tensors.at(0).device.device_id);
  out.stream = stream;
  for (std::size_t i = 0; i < model.count(); ++i)
    out.tensors.push_back(lockstep::lent_by(tensors.at(i), model[i]).data);
  return out;  // for receiver_options::device
}

int main() {
  const lockstep::layout model({{"w", lockstep::dtype::f32, {256}}});
  lockstep::settings settings;
  settings.sync.commit_timeout_ms = 2'000;
  lockstep::runtime runtime(settings);

  inference_engine first(runtime, model, 0);
  inference_engine second(runtime, model, 1);

  std::vector<float> weights(256);
  const auto bytes = [&](std::size_t) { return std::as_bytes(std::span(weights)); };
  lockstep::trainer trainer(runtime, model);
  trainer.seed(bytes);
  if (!trainer.wait_for_members(2, 10s)) return 1;

  for (std::uint64_t step = 1; step <= 3; ++step) {
    weights[0] += 0.5f;  // an optimiser step
    const auto ticket = trainer.sync(step, bytes);
    // `weights` have been read: the next backward pass may begin here.
    const auto report = ticket.wait();
    for (const auto& p : report.participants)
      if (!p.member) std::cerr << p.name << ": " << to_string(p.reason) << ' ' << p.detail << '\n';
    if (!report.complete()) return 1;
    if (!second.receiver().wait_ready(step, 10s)) return 1;
    std::cout << "step " << step << ": " << report.changed << " of " << report.elements
              << " weights changed, engines say " << first.step() << " and " << second.step()
              << '\n';
  }
  return first.step() == 3.0f && second.step() == 3.0f ? 0 : 1;
}
