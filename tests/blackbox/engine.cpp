// Decides what an inference engine of the black-box test does: it generates all the time, under the
// gate and the readiness that docs/embedding.md tells an engine to keep to, and says with which tag
// and over which bytes. With --lie it keeps to something less, which the checker has to find.
//
// SIGTERM: end.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <iostream>
#include <lockstep/lockstep.hpp>
#include <mutex>
#include <thread>

#include "common.hpp"

namespace blackbox {
namespace {

using namespace std::chrono_literals;

struct options {
  std::size_t kib = 256;
  lockstep::receiver_id id = 0;
  std::uint64_t seed = 1;
  std::string memory;
  std::string lie;
};

class engine {
 public:
  engine(lockstep::runtime& on, const options& how, const lockstep::layout& shape)
      : lie_(how.lie),
        chance_(how.seed * 1'000'003 + how.id),
        weights_(shape, how.memory),
        receiver_(on, shape, receiver_options(how)) {}

  /// Generates until `over`, and leaves five sixths of the time to others: there may be eight.
  void go_on(const std::atomic<bool>& over) {
    while (!over) {
      const auto began = now_ns();
      generate();
      const auto took = std::min<std::uint64_t>(now_ns() - began, 20'000'000);
      std::this_thread::sleep_for(
          std::chrono::nanoseconds(1'000'000 + chance_.below(4'000'000) + 5 * took));
    }
  }

 private:
  lockstep::receiver_options receiver_options(const options& how) {
    lockstep::receiver_options out;
    out.id = how.id;
    out.name = "engine-" + std::to_string(how.id);
    out.memory = weights_.tensors();
    out.hooks.pause = [this] {
      const std::lock_guard lock(mutex_);  // returns when no generation is under way
      paused_ = true;
    };
    out.hooks.resume = [this](lockstep::version_ref, std::uint64_t) {
      const std::lock_guard lock(mutex_);
      paused_ = false;
      running_.notify_all();
    };
    return out;
  }

  /// One generation: counts only if it may be served from its first byte to its last.
  void generate() {
    std::unique_lock lock(mutex_);
    if (lie_ == "gate") {
      lock.unlock();
    } else if (!running_.wait_for(lock, 50ms, [&] { return !paused_; })) {
      return;
    }
    const auto begin_at = now_ns();
    const auto begin = permitted();
    if (!begin.ready) {
      if (lock) lock.unlock();
      return away(begin);
    }
    const auto sum_now = sum_slowly();
    // Before the question: what it permits then is permitted no earlier than this.
    const auto end_at = now_ns();
    const auto end = lie_ == "gate" ? begin : permitted();
    if (lie_ == "flip" && chance_.below(20) == 0) weights_.bytes()[7] ^= std::byte{4};
    if (lock) lock.unlock();
    if (!end.ready) {
      ++withdrawn_;
      return away(end);
    }
    away_ = {};
    write(event("generation")
              .number("begin", begin_at)
              .number("end", end_at)
              .text("version", to_string(begin.version))
              .number("label", begin.label)
              .text("version_end", to_string(end.version))
              .number("label_end", end.label)
              .text("sum", hex(sum_now))
              .number("withdrawn", withdrawn_));
  }

  /// Whether it may serve now, and what it would stamp on a token.
  lockstep::readiness permitted() {
    auto out = receiver_.state();
    if (lie_ == "tag" && out.ready && chance_.below(20) == 0) ++out.version.number, ++out.label;
    if (lie_ == "lease") {
      if (out.ready) known_ = out;
      // Knows only that its memory is whole.
      if (out.reason == lockstep::errc::lease_expired) return known_;
    }
    if (lie_ == "stale" && out.ready) {
      if (!known_.ready || known_.version.run != out.version.run) known_ = out;
      return known_;
    }
    return out;
  }

  /// Some generations are long, so that updates come while they are under way.
  std::uint64_t sum_slowly() {
    const auto all = weights_.bytes();
    const auto half = all.size() / 2;
    auto out = sum(all.first(half));
    if (chance_.below(8) == 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(chance_.below(40)));
    return sum(all.subspan(half), out);
  }

  /// Says once why nothing is generated, for people.
  void away(const lockstep::readiness& state) {
    if (away_ == state) return;
    away_ = state;
    write(event("away")
              .text("phase", to_string(state.phase))
              .text("version", to_string(state.version))
              .text("reason", to_string(state.reason)));
  }

  std::string lie_;
  chance chance_;
  weights weights_;  ///< written by Lockstep alone, between `pause` and `resume`
  std::mutex mutex_;
  std::condition_variable running_;
  /// Open from the first: readiness keeps everybody away until there are weights, and one who
  /// proves to hold them already is never paused, and so never told to go on.
  bool paused_ = false;
  lockstep::readiness known_;
  lockstep::readiness away_;
  std::uint64_t withdrawn_ = 0;  ///< generations that ended when they were not permitted any more
  lockstep::receiver receiver_;  ///< the last member: it is gone before what its hooks use
};

int run(int argc, char** argv) {
  options how;
  CLI::App app("An engine of the black-box test. Settings come from the environment.");
  app.add_option("--kib", how.kib, "Size of the model");
  app.add_option("--id", how.id, "Its own in the fleet");
  app.add_option("--seed", how.seed, "Of how long it generates");
  app.add_option("--memory", how.memory, "File that holds its weights over its restarts");
  app.add_option("--lie", how.lie, "What it does wrong")
      ->check(CLI::IsMember({"flip", "gate", "lease", "stale", "tag"}));
  CLI11_PARSE(app, argc, argv);
  const signals told;
  lockstep::runtime runtime(settings_of_environment());
  engine served(runtime, how, model(how.kib));
  std::atomic<bool> over = false;
  std::thread generating([&] { served.go_on(over); });
  while (told.next(1000) != SIGTERM) {
  }
  over = true;
  generating.join();
  return 0;
}

}  // namespace
}  // namespace blackbox

int main(int argc, char** argv) {
  try {
    return blackbox::run(argc, argv);
  } catch (const std::exception& e) {
    std::cerr << e.what() << '\n';
    return 1;
  }
}
