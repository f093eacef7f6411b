// Decides how fast the kernels are, as a ratio to memcpy of the same bytes, timed in turn with it.
#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/digest.hpp"
#include "kernels/dispatch.hpp"
#include "kernels/frame.hpp"
#include "kernels/hash.hpp"

namespace {

using namespace lockstep::kernels;
using buffer = std::vector<std::byte>;

constexpr std::uint32_t unit = 2;  // bf16
constexpr std::size_t tensor_bytes = std::size_t{128} << 20;

/// A tensor well beyond the caches, the same with `density` of its elements changed, and its
/// frames.
struct workload {
  buffer base;
  buffer target;
  buffer scratch;
  buffer frames;
  std::uint64_t count = 0;

  explicit workload(double density) : base(tensor_bytes), scratch(tensor_bytes) {
    std::mt19937_64 random(1);
    for (std::size_t i = 0; i < tensor_bytes; i += 8) {
      const std::uint64_t word = random();
      std::memcpy(&base[i], &word, 8);
    }
    target = base;
    std::geometric_distribution<std::size_t> gap(density);
    for (std::size_t i = gap(random); i < tensor_bytes / unit; i += 1 + gap(random))
      target[i * unit] ^= std::byte{1};
    encode();
  }

  void encode() {
    frames.clear();
    count = 0;
    for (std::size_t at = 0; at < tensor_bytes; at += frame_span_bytes_max)
      count += encode_delta(0, view(base), view(target), at, frames);
  }

  template <class OnFrame>
  void for_each_frame(OnFrame on_frame) const {
    const std::vector<tensor_view> tensors{view(base)};
    for (bytes_view rest{frames.data(), frames.size()}; rest.size > 0;) {
      frame f;
      std::size_t consumed = 0;
      if (parse_frame(rest, tensors, f, consumed) != frame_status::ok)
        throw std::runtime_error("a frame of our own is refused");
      on_frame(f);
      rest = {rest.data + consumed, rest.size - consumed};
    }
  }

  static tensor_view view(const buffer& bytes) { return {{bytes.data(), bytes.size()}, unit}; }
};

workload& at_density(double density) {
  static double held = -1;
  static workload* work = nullptr;
  if (held != density) {
    delete work;
    work = new workload(density);
    held = density;
  }
  return *work;
}

/// Processor time of this thread: on a busy machine the wall clock counts others' work.
double now() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return double(time.tv_sec) + double(time.tv_nsec) * 1e-9;
}

template <class Run>
double seconds(Run run) {
  const double start = now();
  run();
  return now() - start;
}

/// The fastest run: what other load on the machine disturbs least.
double best(const std::vector<double>& times) {
  return *std::min_element(times.begin(), times.end());
}

template <class Step>
void measure(benchmark::State& state, implementation which, double density, Step step) {
  if (!set_implementation(which)) {
    state.SkipWithError("not available");
    return;
  }
  workload& work = at_density(density);
  std::vector<double> copies;
  std::vector<double> steps;
  step(work);
  for (auto _ : state) {
    copies.push_back(
        seconds([&] { std::memcpy(work.scratch.data(), work.base.data(), tensor_bytes); }));
    benchmark::DoNotOptimize(work.scratch.data());
    benchmark::ClobberMemory();
    steps.push_back(seconds([&] { step(work); }));
    state.SetIterationTime(steps.back());
  }
  const double copy = best(copies);
  const double taken = best(steps);
  state.counters["GB/s"] = double(tensor_bytes) / taken / 1e9;
  state.counters["memcpy_GB/s"] = double(tensor_bytes) / copy / 1e9;
  state.counters["x_memcpy"] = copy / taken;
  if (density > 0) state.counters["ns/change"] = taken * 1e9 / double(work.count);
}

template <class Step>
void add(const std::string& name, implementation which, double density, Step step) {
  const std::string full =
      name + "/" + to_string(which) + "/" + std::to_string(density * 100).substr(0, 5) + "%";
  benchmark::RegisterBenchmark(
      full.c_str(), [=](benchmark::State& state) { measure(state, which, density, step); })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->Iterations(25);
}

void add_all() {
  for (const double density : {0.0001, 0.01, 0.03, 0.1}) {
    for (const auto which : available_implementations())
      add("encode_delta", which, density, [](workload& w) { w.encode(); });
    const auto fastest = available_implementations().back();
    add("parse", fastest, density, [](workload& w) { w.for_each_frame([](const frame&) {}); });
    add("parse_apply", fastest, density, [](workload& w) {
      w.for_each_frame([&](const frame& f) {
        apply_frame(f, {{w.scratch.data(), w.scratch.size()}, unit});
      });
    });
    add("parse_change_of_apply", fastest, density, [](workload& w) {
      static const digest_key key(1);
      digest_sum sum;
      const tensor_span live{{w.scratch.data(), w.scratch.size()}, unit};
      w.for_each_frame([&](const frame& f) {
        sum += change_of(key, f, live);
        apply_frame(f, live);
      });
      benchmark::DoNotOptimize(sum);
    });
  }
  for (const auto which : available_implementations())
    add("digest_tensor", which, 0.01, [](workload& w) {
      static const digest_key key(1);
      benchmark::DoNotOptimize(digest_tensor(key, 0, {w.base.data(), w.base.size()}));
    });
  add("hash_bytes", implementation::portable, 0.01, [](workload& w) {
    benchmark::DoNotOptimize(hash_bytes({w.base.data(), w.base.size()}));
  });
}

}  // namespace

int main(int argc, char** argv) {
  add_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
