// Trains a small policy whose rollouts are played by inference engines that Lockstep keeps at the
// trainer's weights. With --no-sync the engines stay where they started, and so does their return.
#include <cstring>
#include <deque>
#include <exception>
#include <iostream>
#include <lockstep/lockstep.hpp>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "learner.hpp"
#include "options.hpp"
#include "report.hpp"
#include "rollout_engine.hpp"

namespace embedded_rl {
namespace {

using namespace std::chrono_literals;

double mean_return(const std::vector<rollout>& batch) {
  double sum = 0;
  std::size_t count = 0;
  for (const auto& r : batch)
    for (const auto& g : r.groups)
      for (const auto& e : g) {
        sum += static_cast<double>(e.total_reward);
        ++count;
      }
  return sum / static_cast<double>(count);
}

class training {
 public:
  explicit training(const options& asked) : asked_(asked), learner_(asked.seed) {
    std::shared_ptr<lockstep::fault_plan> faults;
    if (asked.fail_at != 0)
      faults = std::make_shared<lockstep::fault_plan>(
          std::vector<lockstep::fault>{{lockstep::fault_kind::apply_fail, asked.fail_at, 0}});
    for (std::uint32_t id = 0; id < asked.receivers; ++id)
      engines_.emplace_back(runtime_, id, faults);
    published_ = learner_.rounded();
    trainer_.seed(reader());
    if (!trainer_.wait_for_members(asked.receivers, 30s))
      throw std::runtime_error("not all engines were seeded");
  }

  run_result run() {
    print_header(asked_);
    const auto window = std::min<std::uint64_t>(10, (asked_.steps + 1) / 2);
    result_.window = window;
    for (std::uint64_t step = 1; step <= asked_.steps; ++step) {
      const auto batch = play(step);
      learner_.learn(batch);
      step_result r;
      r.step = step;
      r.mean_return = mean_return(batch);
      publish(step, r);
      print(asked_, r);
      const auto share = r.mean_return / static_cast<double>(window);
      if (step <= window) result_.return_first += share;
      if (step + window > asked_.steps) result_.return_last += share;
    }
    result_.equal = engines_equal();
    return result_;
  }

 private:
  lockstep::tensor_reader reader() const {
    return [this](std::size_t i) { return std::as_bytes(std::span(published_.tensors[i])); };
  }

  /// All engines at once; the batch is in the order of their ids, whoever is first.
  std::vector<rollout> play(std::uint64_t step) {
    const auto label = asked_.sync ? step - 1 : 0;
    std::vector<std::future<rollout>> under_way;
    for (auto& e : engines_) under_way.push_back(e.play({asked_.seed, step, label}));
    std::vector<rollout> batch;
    for (auto& f : under_way) {
      batch.push_back(f.get());
      if (batch.back().oldest_label != label) result_.on_policy = false;
    }
    return batch;
  }

  void publish(std::uint64_t step, step_result& out) {
    auto next = learner_.rounded();
    if (!asked_.sync) {
      out.changed = share_changed(next);
      return;
    }
    published_ = std::move(next);
    auto report = trainer_.sync(step, reader()).wait();
    // Nobody wrote anything: what stood in the way may be gone.
    for (int again = 0; report.result == lockstep::sync_result::aborted && again < 3; ++again)
      report = trainer_.sync(step, reader()).wait();
    if (!report.complete())
      throw std::runtime_error("step " + std::to_string(step) + ": the sync is " +
                               std::string(to_string(report.result)) + ": " +
                               std::string(to_string(report.reason)) + " " + report.detail);
    out.result = to_string(report.result);
    out.changed = static_cast<double>(report.changed) / static_cast<double>(report.elements);
    out.wire_bytes = report.wire_bytes;
    out.full_bytes = report.full_bytes;
    for (const auto& p : report.participants) out.reseeds += p.reseeds;
    ++result_.syncs;
    result_.recovered += report.result == lockstep::sync_result::recovered ? 1u : 0u;
    result_.reseeds += out.reseeds;
    result_.wire_bytes += out.wire_bytes;
    result_.full_bytes += out.full_bytes;
  }

  /// How far the trainer has gone ahead of what it has published.
  double share_changed(const policy_weights<bf16>& next) const {
    std::size_t changed = 0;
    std::size_t count = 0;
    for (std::size_t t = 0; t < tensor_count; ++t)
      for (std::size_t i = 0; i < next.tensors[t].size(); ++i, ++count)
        changed += next.tensors[t][i].bits != published_.tensors[t][i].bits ? 1u : 0u;
    return static_cast<double>(changed) / static_cast<double>(count);
  }

  bool engines_equal() const {
    for (const auto& e : engines_)
      for (std::size_t i = 0; i < tensor_count; ++i) {
        const auto held = e.receiver().tensor(i);
        const auto sent = reader()(i);
        if (held.size() != sent.size() || std::memcmp(held.data(), sent.data(), sent.size()) != 0)
          return false;
      }
    return true;
  }

  options asked_;
  lockstep::runtime runtime_;
  lockstep::trainer trainer_{runtime_, policy_layout()};
  learner learner_;
  policy_weights<bf16> published_;
  std::deque<rollout_engine> engines_;  // a deque: engines cannot move, hooks point to them
  run_result result_;
};

}  // namespace
}  // namespace embedded_rl

int main(int argc, char** argv) {
  int exit_code = 0;
  const auto asked = embedded_rl::parse_options(argc, argv, exit_code);
  if (!asked) return exit_code;
  try {
    return embedded_rl::conclude(*asked, embedded_rl::training(*asked).run()) ? 0 : 1;
  } catch (const std::exception& e) {
    std::cerr << "embedded_rl: " << e.what() << '\n';
    return 1;
  }
}
