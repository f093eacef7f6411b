// What a receiver that missed the last steps of a run is sent: all deltas, the merged one, or all
// weights; and what remembering them takes.
//
//   catch_up_bench BASE STREAM
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <exception>
#include <vector>

#include "weights/change_history.hpp"
#include "weights/checkpoint.hpp"
#include "weights/weight_stream.hpp"

using namespace lockstep;

namespace {

constexpr std::uint64_t bucket_bytes = 4u << 20;

/// Of this process alone, whatever else the machine does.
double processor_ms() {
  return 1000.0 * static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

void run(const char* base_path, const char* stream_path) {
  const auto base = checkpoint::open(base_path);
  const auto stream = weight_stream::open(stream_path, base.shape());
  weight_buffer weights(base.shape());
  weights.copy_from(base.shape(), reader_of(base));
  change_history history(~std::uint64_t{0});
  std::vector<std::uint64_t> deltas;
  double recording = 0;
  for (std::size_t i = 0; i < stream.versions().size(); ++i) {
    const auto before = weights.clone();
    stream.load(i, weights);
    const auto delta =
        encode_delta(base.shape(), views_of(before), views_of(weights), bucket_bytes);
    deltas.push_back(delta.content.bytes);
    const auto left = digest_of(public_digest_seed, views_of(before));
    const auto start = processor_ms();
    history.record(left, marks_of(delta.buckets, views_of(weights)));
    recording += processor_ms() - start;
  }
  const auto steps = deltas.size();
  const auto all = full_plan(base.shape(), views_of(weights), bucket_bytes).content().bytes;
  std::printf(
      "%zu steps, all weights %.2f MB; remembered in %.3f MB, %.2f %% of all a step; %.2f ms a "
      "step\n",
      steps, static_cast<double>(all) / 1e6, static_cast<double>(history.bytes()) / 1e6,
      100.0 * static_cast<double>(history.bytes()) / static_cast<double>(steps) /
          static_cast<double>(all),
      recording / static_cast<double>(steps));
  std::printf("missed  replayed MB  merged MB  of all weights  CPU ms\n");
  for (std::size_t missed = 1;; missed = std::min(2 * missed, steps)) {
    std::uint64_t replayed = 0;
    for (auto i = steps - missed; i < steps; ++i) replayed += deltas[i];
    const auto start = processor_ms();
    const auto merged =
        history.merged(missed, base.shape(), views_of(weights), bucket_bytes, ~std::uint64_t{0});
    const auto took = processor_ms() - start;
    std::printf(
        "%6zu %12.3f %10.3f %13.1f %% %12.1f\n", missed, static_cast<double>(replayed) / 1e6,
        static_cast<double>(merged->content.bytes) / 1e6,
        100.0 * static_cast<double>(merged->content.bytes) / static_cast<double>(all), took);
    if (missed == steps) break;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: catch_up_bench BASE STREAM\n", stderr);
    return 2;
  }
  try {
    run(argv[1], argv[2]);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
