#include "apps/bench_codec.hpp"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "apps/bench_bound.hpp"
#include "kernels/frame.hpp"
#include "messages/errors.hpp"
#include "weights/workers.hpp"

namespace lockstep {
namespace {

constexpr std::uint64_t bucket_bytes = kernels::frame_bytes_max;

double now(unsigned threads) {
  timespec time{};
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

double median(std::vector<double> times) {
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

/// The tensors of one dtype at one step, and memory to apply to.
class dtype_step {
 public:
  dtype_step(dtype type, const bench_data& data, weight_buffer& live) {
    std::vector<tensor_spec> specs;
    const auto unit = unit_bytes(type);
    for (std::size_t i = 0; i < data.shape().count(); ++i) {
      if (data.shape()[i].type != type) continue;
      const auto from = data.base().tensor(i);
      const auto to = data.target().tensor(i);
      specs.push_back(data.shape()[i]);
      base_.push_back({{from.data(), from.size()}, unit});
      target_.push_back({{to.data(), to.size()}, unit});
      live_.push_back({{live.tensor(i).data(), live.tensor(i).size()}, unit});
      bytes_ += from.size();
    }
    shape_ = layout(std::move(specs));
  }

  std::uint64_t bytes() const noexcept { return bytes_; }
  const tensor_views& base() const noexcept { return base_; }
  const tensor_views& target() const noexcept { return target_; }

  /// Copies base over live: what all is compared with.
  void copy() {
    constexpr std::size_t piece = std::size_t{4} << 20;
    std::vector<std::pair<std::size_t, std::size_t>> pieces;
    for (std::size_t i = 0; i < base_.size(); ++i)
      for (std::size_t at = 0; at < base_[i].bytes.size; at += piece) pieces.emplace_back(i, at);
    for_each_index(pieces.size(), [&](std::size_t n) {
      const auto [i, at] = pieces[n];
      std::memcpy(live_[i].bytes.data + at, base_[i].bytes.data + at,
                  std::min(piece, base_[i].bytes.size - at));
    });
  }

  encoded_delta encode(kernels::encoding_choice choice) const {
    return encode_delta(shape_, base_, target_, bucket_bytes, choice);
  }

  staged_states stage(std::vector<payload>& buckets) const {
    staged_states states;
    const auto failure =
        stage_buckets(public_digest_seed, buckets, as_views(live_), UINT64_MAX, states);
    if (failure) throw error(failure->reason, failure->detail);
    return states;
  }

  void apply(const std::vector<payload>& buckets) {
    std::vector<std::size_t> touched;
    if (const auto bad = apply_buckets(buckets, live_, touched))
      throw error(bad->reason, bad->detail);
  }

  void check() const {
    for (std::size_t i = 0; i < live_.size(); ++i)
      if (std::memcmp(live_[i].bytes.data, target_[i].bytes.data, live_[i].bytes.size) != 0)
        throw error(errc::wrong_target, "what was applied is not the target");
  }

 private:
  layout shape_;
  tensor_views base_;
  tensor_views target_;
  tensor_spans live_;
  std::uint64_t bytes_ = 0;
};

struct samples {
  std::vector<double> encode, stage, apply, digest, copy;
};

class dtype_bench {
 public:
  dtype_bench(dtype type, const codec_bench_options& options) : type_(type), options_(options) {
    for (const auto which : options.implementations)
      for (const auto choice : {kernels::encoding_choice::coded, kernels::encoding_choice::raw,
                                kernels::encoding_choice::full}) {
        codec_result result;
        result.type = type;
        result.encoding = choice;
        result.which = which;
        results_.push_back(result);
      }
  }

  void step(const bench_data& data, weight_buffer& live) {
    dtype_step step(type_, data, live);
    exponent_bound bound(type_);
    for (std::size_t i = 0; i < step.base().size(); ++i)
      bound.add(step.base()[i].bytes, step.target()[i].bytes);
    std::vector<samples> all(results_.size());
    step.copy();
    for (unsigned i = 0; i < options_.repeats; ++i)
      for (std::size_t r = 0; r < results_.size(); ++r) measure(step, results_[r], all[r], i == 0);
    for (std::size_t r = 0; r < results_.size(); ++r) {
      codec_result& result = results_[r];
      result.bytes += step.bytes();
      result.changed += bound.changes();
      result.elements += bound.elements();
      result.bound += bound.bytes();
      result.encode_seconds += median(all[r].encode);
      result.stage_seconds += median(all[r].stage);
      result.apply_seconds += median(all[r].apply);
      result.digest_seconds += median(all[r].digest);
      result.memcpy_seconds += median(all[r].copy);
    }
  }

  const std::vector<codec_result>& results() const noexcept { return results_; }

 private:
  void measure(dtype_step& step, codec_result& result, samples& times, bool first) const {
    kernels::set_implementation(result.which);
    const unsigned threads = options_.threads;
    const auto timed = [threads](std::vector<double>& into, auto work) {
      const double start = now(threads);
      work();
      into.push_back(now(threads) - start);
    };
    encoded_delta delta;
    timed(times.encode, [&] { delta = step.encode(result.encoding); });
    if (first) result.wire += delta.content.bytes;
    digest base;
    if (threads == 1)
      timed(times.digest, [&] { base = digest_of(public_digest_seed, step.base()); });
    else
      times.digest.push_back(0);
    staged_states states;
    timed(times.stage, [&] { states = step.stage(delta.buckets); });
    timed(times.apply, [&] { step.apply(delta.buckets); });
    if (first) {
      step.check();
      if (states.base != digest_of(public_digest_seed, step.base()) ||
          states.target != digest_of(public_digest_seed, step.target()))
        throw error(errc::wrong_target, "the digests are not those of base and target");
    }
    timed(times.copy, [&] { step.copy(); });
  }

  dtype type_;
  const codec_bench_options& options_;
  std::vector<codec_result> results_;
};

}  // namespace

std::string_view to_string(kernels::encoding_choice choice) noexcept {
  switch (choice) {
    case kernels::encoding_choice::coded:
      return "coded";
    case kernels::encoding_choice::raw:
      return "raw";
    case kernels::encoding_choice::full:
      return "full";
  }
  return "unknown";
}

std::vector<codec_result> bench_codec(bench_data& data, const codec_bench_options& options) {
  codec_bench_options all = options;
  if (all.implementations.empty()) all.implementations = kernels::available_implementations();
  std::map<dtype, dtype_bench> benches;
  for (std::size_t i = 0; i < data.shape().count(); ++i)
    if (data.shape().bytes(i) != 0)
      benches.try_emplace(data.shape()[i].type, data.shape()[i].type, all);
  weight_buffer live(data.shape());
  // Times of one thread are its own processor time: nobody may help it.
  set_workers(options.threads);
  const auto before = kernels::active_implementation();
  while (data.next()) {
    if (!all.write.empty()) data.write(std::exchange(all.write, {}));
    for (auto& [type, bench] : benches) bench.step(data, live);
  }
  kernels::set_implementation(before);
  set_workers(0);
  std::vector<codec_result> results;
  for (const auto& [type, bench] : benches)
    results.insert(results.end(), bench.results().begin(), bench.results().end());
  return results;
}

}  // namespace lockstep
