// Decides what the trainer of the black-box test does, and says of itself before and after each
// call: its weights are in its memory, and change by one to three hundredths a step.
//
// SIGUSR1: one more sync that everybody has to be in, an audit, and no step after it. SIGTERM: end.
// Exit 0, or 5 where a newer trainer leads the fleet.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <lockstep/lockstep.hpp>

#include "common.hpp"

namespace blackbox {
namespace {

using namespace std::chrono_literals;

struct options {
  std::size_t kib = 256;
  std::uint64_t seed = 1;
  std::uint64_t life = 1;
  std::size_t engines = 4;
  std::int64_t period_ms = 30;
  std::uint64_t save_every = 4;
  std::string checkpoint;
};

class training {
 public:
  training(lockstep::runtime& on, const options& how, lockstep::layout shape)
      : how_(how),
        memory_(shape, ""),
        trainer_(on, std::move(shape)),
        // Each life goes another way, so that a label stands for other weights in each run.
        chance_(how.seed * 1'000'003 + how.life) {
    begin();
  }

  /// Until it is told to end, or a newer trainer takes the fleet.
  int go_on(const signals& told) {
    seed();
    change();
    for (;;) {
      const int number = told.next(how_.period_ms);
      if (number == SIGTERM) break;
      if (number == SIGUSR1) {
        if (!finish()) return 1;
        while (told.next(1000) != SIGTERM) {
        }
        return 0;
      }
      step();
      if (!is_running()) return 5;
    }
    return 0;
  }

 private:
  lockstep::tensor_reader reader() const {
    return [this](std::size_t i) { return std::span<const std::byte>(memory_.tensors()[i]); };
  }

  void begin() {
    std::ifstream file(how_.checkpoint, std::ios::binary);
    std::uint64_t label = 0;
    const auto bytes = memory_.bytes();
    if (!how_.checkpoint.empty() && file.read(reinterpret_cast<char*>(&label), sizeof label) &&
        file.read(reinterpret_cast<char*>(bytes.data()),
                  static_cast<std::streamsize>(bytes.size()))) {
      label_ = label;
      return;
    }
    chance first(how_.seed);
    for (auto& b : bytes) b = static_cast<std::byte>(first.next());
  }

  void save() const {
    if (how_.checkpoint.empty()) return;
    const auto beside = how_.checkpoint + ".new";
    {
      std::ofstream file(beside, std::ios::binary | std::ios::trunc);
      const auto bytes = memory_.bytes();
      file.write(reinterpret_cast<const char*>(&label_), sizeof label_);
      file.write(reinterpret_cast<const char*>(bytes.data()),
                 static_cast<std::streamsize>(bytes.size()));
      if (!file.flush()) throw std::runtime_error(beside + ": cannot be written");
    }
    std::filesystem::rename(beside, how_.checkpoint);
  }

  /// One step of the optimiser: new random bytes in some places, which is a new NaN at times.
  void change() {
    const auto bytes = memory_.bytes();
    const auto hundredths = 1 + chance_.below(3);
    const auto places = std::max<std::uint64_t>(1, bytes.size() * hundredths / 200);
    for (std::uint64_t n = 0; n < places; ++n) {
      const auto at = chance_.below(bytes.size() / 2) * 2;
      const auto value = chance_.next();
      bytes[at] = static_cast<std::byte>(value);
      bytes[at + 1] = static_cast<std::byte>(value >> 8);
    }
    ++label_;
  }

  void seed() {
    write(event("seed").number("label", label_).text("sum", hex(sum(memory_.bytes()))));
    const auto version = trainer_.seed(reader(), label_);
    write(event("seeded").number("label", label_).text("version", to_string(version)));
  }

  /// Begins another run where this one was lost. False where a newer trainer leads the fleet.
  bool is_running() {
    if (trainer_.is_running()) return true;
    const auto why = trainer_.ended_by();
    write(event("over").text("reason", to_string(why)));
    if (why == lockstep::errc::fenced) return false;
    seed();
    return true;
  }

  lockstep::sync_report step() {
    const auto label = label_;
    if (how_.save_every != 0 && label % how_.save_every == 0) save();
    write(event("sync").number("label", label).text("sum", hex(sum(memory_.bytes()))));
    const auto ticket = trainer_.sync(label, reader());
    // What `sync` promises: they have been read. The next step overwrites them at once.
    change();
    auto report = ticket.wait();
    std::vector<object> all;
    for (const auto& p : report.participants)
      all.push_back(object()
                        .number("id", p.id)
                        .text("status", to_string(p.status))
                        .text("reason", to_string(p.reason))
                        .flag("member", p.member)
                        .text("version", to_string(p.version)));
    write(event("synced")
              .number("label", report.label)
              .text("result", to_string(report.result))
              .text("reason", to_string(report.reason))
              .text("base", to_string(report.base))
              .text("target", to_string(report.target))
              .list("receivers", all));
    return report;
  }

  bool finish() {
    const auto until = std::chrono::steady_clock::now() + 60s;
    while (std::chrono::steady_clock::now() < until) {
      if (!is_running()) return false;
      if (!trainer_.wait_for_members(how_.engines, 1s)) continue;
      const auto report = step();
      if (!report.complete() || report.participants.size() != how_.engines) continue;
      if (!trainer_.wait_for_members(how_.engines, 1s)) continue;
      std::vector<object> all;
      bool passed = true;
      for (const auto& a : trainer_.audit()) {
        passed = passed && a.pass;
        all.push_back(object()
                          .number("id", a.id)
                          .text("version", to_string(a.version))
                          .flag("pass", a.pass)
                          .text("why_not", a.why_not));
      }
      write(event("finished")
                .number("label", report.label)
                .text("version", to_string(report.target))
                .flag("audit", passed && all.size() == how_.engines)
                .list("receivers", all));
      return true;
    }
    return false;
  }

  options how_;
  weights memory_;
  std::uint64_t label_ = 0;
  lockstep::trainer trainer_;
  chance chance_;
};

int run(int argc, char** argv) {
  options how;
  CLI::App app("The trainer of the black-box test. Settings come from the environment.");
  app.add_option("--kib", how.kib, "Size of the model");
  app.add_option("--seed", how.seed, "Of the weights and their changes");
  app.add_option("--life", how.life, "Which start of the trainer this is");
  app.add_option("--engines", how.engines, "Who has to be there in the end");
  app.add_option("--period-ms", how.period_ms, "Between two steps");
  app.add_option("--save-every", how.save_every, "Steps between two checkpoints");
  app.add_option("--checkpoint", how.checkpoint, "File to begin from, and to save to");
  CLI11_PARSE(app, argc, argv);
  const signals told;
  lockstep::runtime runtime(settings_of_environment());
  write(event("listening").number("port", runtime.port()));
  return training(runtime, how, model(how.kib)).go_on(told);
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
