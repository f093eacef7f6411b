// How fast the device kernels are, against copies of the same run. Prints JSON.
//   cuda_bench [GIB [DENSITY [REPEATS]]]
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/device_kernels.hpp"

namespace {

using namespace lockstep::kernels;
using namespace lockstep::kernels::cuda;

void require(cudaError_t status) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "cuda_bench: %s\n", cudaGetErrorString(status));
  std::exit(1);
}

/// Memory of the device, until the program ends.
template <class T>
T* room_for(std::uint64_t count) {
  void* memory = nullptr;
  require(cudaMalloc(&memory, count * sizeof(T)));
  require(cudaMemset(memory, 0, count * sizeof(T)));
  return static_cast<T*>(memory);
}

__device__ std::uint64_t scatter(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

constexpr int octaves = 16;

/// The chance of a step in the octave before the first one, so that `density` of all weights take
/// one: octave n has 2^-n of the weights (the last as many as the one before it), and twice the
/// chance of the one before it, at most 1.
double chance_for(double density) {
  double low = 0, high = 1;
  for (int i = 0; i < 60; ++i) {
    const double chance = (low + high) / 2;
    double sum = 0;
    for (int n = 1; n <= octaves; ++n)
      sum += std::exp2(-std::min(n, octaves - 1)) * std::min(1.0, chance * std::exp2(n));
    (sum < density ? low : high) = chance;
  }
  return high;
}

/// Made-up bf16 weights: the chance of a step doubles with every octave that a weight is smaller,
/// see `chance_for`; most steps are of one place.
__global__ void make_weights(std::uint16_t* base, std::uint16_t* target, std::uint64_t count,
                             float first_chance) {
  const std::uint64_t stride = std::uint64_t{gridDim.x} * blockDim.x;
  for (std::uint64_t i = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    const std::uint64_t random = scatter(i + 1);
    const int octave = min(__ffs(static_cast<int>(random | 0x80000000u)), octaves);
    const auto weight = static_cast<std::uint16_t>((random >> 32 & 0x807f) | (123 - octave) << 7);
    const float chance = fminf(1.0f, first_chance * exp2f(static_cast<float>(octave)));
    const std::uint64_t other = scatter(random);
    const bool changes = static_cast<float>(other & 0xffffff) < chance * 0x1000000;
    const int size = (other >> 24 & 15) != 0 ? 1 : 2 + static_cast<int>(other >> 28 & 3);
    base[i] = weight;
    target[i] =
        static_cast<std::uint16_t>(!changes ? weight : weight + ((other >> 40 & 1) ? size : -size));
  }
}

class bench {
 public:
  bench(std::uint64_t bytes, double density, int repeats)
      : run_(*cuda_kernels()), bytes_(bytes), density_(density), repeats_(repeats) {
    require(cudaStreamCreate(&stream_));
    require(cudaEventCreate(&start_));
    require(cudaEventCreate(&end_));
    base_ = room_for<std::byte>(bytes);
    target_ = room_for<std::byte>(bytes);
    make_weights<<<4096, 256, 0, stream_>>>(reinterpret_cast<std::uint16_t*>(base_),
                                            reinterpret_cast<std::uint16_t*>(target_), bytes / 2,
                                            static_cast<float>(chance_for(density)));
    std::vector<device_tensor> tensors(1);
    tensors[0].base = base_;
    tensors[0].target = target_;
    tensors[0].bytes = bytes;
    tensors[0].unit = 2;
    const auto ranges = list_ranges(tensors);
    auto* const tensors_there = room_for<device_tensor>(1);
    auto* const ranges_there = room_for<device_range>(ranges.size());
    require(cudaMemcpy(tensors_there, tensors.data(), sizeof tensors[0], cudaMemcpyHostToDevice));
    require(cudaMemcpy(ranges_there, ranges.data(), ranges.size() * sizeof ranges[0],
                       cudaMemcpyHostToDevice));
    layout_ = {tensors_there, 1, ranges_there, ranges.size()};
    key_ = room_for<device_key>(1);
    run_.expand_key(1, key_, stream_);
  }

  int all() {
    const double copy = measure([&] {
      require(cudaMemcpyAsync(base_, target_, bytes_, cudaMemcpyDeviceToDevice, stream_));
    });
    bandwidth_ = 2.0 * static_cast<double>(bytes_) / copy;  // bytes a millisecond
    make_again();
    prepare();
    const auto size = static_cast<double>(bytes_);
    print_header();
    const double encoded = measure([&] { encode(); });
    const encode_result result = read(result_);
    const auto changes = static_cast<double>(result.changes);
    line("encode_raw", encoded, 2 * size, 1.5);
    line("digest", measure([&] { digest(); }), size);
    // A sector read for each change.
    line("check_raw", measure([&] { check(); }), 32 * changes);
    bool refused = read(stage_).refused != nothing_refused;
    line("apply_raw", measure([&] { apply(); }), 64 * changes);
    const auto receive = [&] {
      check();
      apply();
    };
    const double received = measure(receive);
    line("receive_raw", received, 64 * changes, 2);
    const double sync = measure([&] {
      encode();
      receive();
    });
    sync_line("sync_raw", sync, encoded + received);
    // Fewer ranges at a time: working memory against the time between launches.
    for (batch_ = 128; batch_ <= 4096; batch_ *= 4)
      line("encode_raw_" + std::to_string(batch_), measure([&] { encode(); }), 2 * size);
    batch_ = 1024;
    prepare_coded(result.changes);
    const double coded_encoded = measure([&] { encode_coded(); });
    line("encode_coded", coded_encoded, 2 * size, 3);
    const encode_result coded = read(result_);
    line("decode_coded", measure([&] { decode(); }), size + 32 * changes);
    const double coded_received = measure([&] { receive_coded(); });
    line("receive_coded", coded_received, size + 32 * changes, 2);
    refused = refused || read(stage_).refused != nothing_refused;
    const double coded_sync = measure([&] {
      encode_coded();
      receive_coded();
    });
    sync_line("sync_coded", coded_sync, coded_encoded + coded_received);
    std::printf(
        "\n  ],\n  \"changes\": %llu,\n  \"changed\": %.5f,\n  \"raw_bytes\": %llu,\n  \"coded_bytes\": %llu,\n"
        "  \"refused\": %s\n}\n",
        static_cast<unsigned long long>(result.changes), changes / (size / 2),
        static_cast<unsigned long long>(result.bytes), static_cast<unsigned long long>(coded.bytes),
        refused ? "true" : "false");
    return !refused && result.missing == 0 && coded.missing == 0 ? 0 : 1;
  }

 private:
  void make_again() {
    make_weights<<<4096, 256, 0, stream_>>>(reinterpret_cast<std::uint16_t*>(base_),
                                            reinterpret_cast<std::uint16_t*>(target_), bytes_ / 2,
                                            static_cast<float>(chance_for(density_)));
  }

  void prepare() {
    batch_ = 1024;
    memory_bytes_ = encode_memory_bytes(std::min<std::uint64_t>(8192, layout_.range_count));
    memory_ = room_for<std::byte>(memory_bytes_);
    capacity_ = static_cast<std::uint64_t>(static_cast<double>(bytes_) * (density_ * 3 + 0.001)) +
                frame_bytes_max;
    frames_ = room_for<std::byte>(capacity_);
    frame_at_ = room_for<std::uint64_t>(layout_.range_count);
    result_ = room_for<encode_result>(1);
    checked_ = room_for<checked_frame>(layout_.range_count);
    claims_ = room_for<std::uint32_t>(layout_.range_count);
    stage_ = room_for<stage_result>(1);
    sum_ = room_for<device_digest>(1);
    undo_ = room_for<std::byte>(capacity_);
  }

  /// Classes from a sample of both states, and memory for lists of changes.
  void prepare_coded(std::uint64_t changes) {
    const std::size_t size = std::min<std::uint64_t>(bytes_, 1 << 20);
    std::vector<std::byte> base(size);
    std::vector<std::byte> target(size);
    make_again();
    require(cudaStreamSynchronize(stream_));
    require(cudaMemcpy(base.data(), base_, size, cudaMemcpyDeviceToHost));
    require(cudaMemcpy(target.data(), target_, size, cudaMemcpyDeviceToHost));
    const device_model model =
        to_device(plan_classes({{base.data(), size}, 2}, {{target.data(), size}, 2}));
    models_ = room_for<device_model>(1);
    require(cudaMemcpy(models_, &model, sizeof model, cudaMemcpyHostToDevice));
    const std::uint64_t at_once = std::min(batch_, layout_.range_count);
    // Twice what a batch has on average.
    const std::uint64_t most = 2 * changes / layout_.range_count * at_once + (1 << 20);
    coded_bytes_ = coded_memory_bytes(at_once, most, 2);
    coded_memory_ = room_for<std::byte>(coded_bytes_);
    decode_bytes_ = decode_memory_bytes(at_once, most);
    decode_memory_ = room_for<std::byte>(decode_bytes_);
    made_ = room_for<std::byte>(capacity_);
    made_at_ = room_for<std::uint64_t>(layout_.range_count);
    pass_at_ = room_for<std::uint64_t>(layout_.range_count);
    made_result_ = room_for<encode_result>(1);
    digested_ = room_for<std::uint32_t>(layout_.range_count);
  }

  void encode_coded() {
    require(cudaMemsetAsync(result_, 0, sizeof *result_, stream_));
    for (std::uint64_t at = 0; at < layout_.range_count; at += batch_) {
      device_layout part = layout_;
      part.ranges += at;
      part.range_count = std::min(batch_, layout_.range_count - at);
      run_.encode_coded(part, models_, {frames_, capacity_, frame_at_ + at, result_}, coded_memory_,
                        coded_bytes_, stream_);
    }
  }
  void decode() {
    require(cudaMemsetAsync(made_result_, 0, sizeof *made_result_, stream_));
    require(cudaMemsetAsync(digested_, 0, layout_.range_count * sizeof *digested_, stream_));
    require(cudaMemsetAsync(sum_, 0, sizeof *sum_, stream_));
    run_.begin_stage(layout_, claims_, stage_, stream_);
    for (std::uint64_t at = 0; at < layout_.range_count; at += batch_) {
      const frame_list list{frames_, capacity_, frame_at_ + at,
                            std::min(batch_, layout_.range_count - at)};
      run_.decode(layout_, list, key_,
                  {made_, capacity_, made_at_ + at, pass_at_ + at, made_result_, digested_, sum_},
                  decode_memory_, decode_bytes_, stage_, stream_);
    }
    run_.digest(layout_, which_state::base, key_, digested_, sum_, stream_);
  }
  void receive_coded() {
    decode();
    run_.check(layout_, {made_, capacity_, made_at_, layout_.range_count}, key_, checked_, undo_,
               claims_, stage_, stream_);
    run_.apply(layout_, made_, checked_, layout_.range_count, stage_, stream_);
  }

  void encode() {
    require(cudaMemsetAsync(result_, 0, sizeof *result_, stream_));
    for (std::uint64_t at = 0; at < layout_.range_count; at += batch_) {
      device_layout part = layout_;
      part.ranges += at;
      part.range_count = std::min(batch_, layout_.range_count - at);
      run_.encode_raw(part, {frames_, capacity_, frame_at_ + at, result_}, memory_, memory_bytes_,
                      stream_);
    }
  }
  void digest() { run_.digest(layout_, which_state::base, key_, nullptr, sum_, stream_); }
  void check() {
    run_.begin_stage(layout_, claims_, stage_, stream_);
    run_.check(layout_, {frames_, capacity_, frame_at_, layout_.range_count}, key_, checked_, undo_,
               claims_, stage_, stream_);
  }
  void apply() {
    run_.apply(layout_, frames_, checked_, layout_.range_count, stage_, stream_);
  }

  /// Milliseconds, the median of the repeats, from the weights as they were made.
  double measure(const std::function<void()>& work) {
    std::vector<float> times;
    for (int i = 0; i <= repeats_; ++i) {
      if (sum_ != nullptr) make_again();
      require(cudaEventRecord(start_, stream_));
      work();
      require(cudaEventRecord(end_, stream_));
      require(cudaEventSynchronize(end_));
      float milliseconds = 0;
      require(cudaEventElapsedTime(&milliseconds, start_, end_));
      if (i > 0) times.push_back(milliseconds);  // the first one warms up
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

  template <class T>
  T read(const T* from) {
    T value;
    require(cudaStreamSynchronize(stream_));
    require(cudaMemcpy(&value, from, sizeof value, cudaMemcpyDeviceToHost));
    return value;
  }

  void print_header() const {
    cudaDeviceProp card{};
    require(cudaGetDeviceProperties(&card, 0));
    std::printf(
        "{\n  \"card\": \"%s\",\n  \"bytes\": %llu,\n  \"density\": %g,\n  \"repeats\": %d,\n"
        "  \"copy_gb_s\": %.1f,\n  \"steps\": [",
        card.name, static_cast<unsigned long long>(bytes_), density_, repeats_, bandwidth_ / 1e6);
  }

  /// `moved`: bytes that the step has to read and write at least. `bar`: the most that it may take,
  /// in multiples of that; 0: there is none.
  void line(const std::string& name, double milliseconds, double moved, double bar = 0) {
    against(name, "floor_ms", milliseconds, moved / bandwidth_, bar);
  }
  /// The same for a sync on one device, against its two sides one by one.
  void sync_line(const std::string& name, double milliseconds, double sides) {
    against(name, "sides_ms", milliseconds, sides, 1.3);
  }
  void against(const std::string& name, const char* what, double milliseconds, double least,
               double bar) {
    const double ratio = milliseconds / least;
    std::printf("%s\n    {\"step\": \"%s\", \"ms\": %.3f, \"%s\": %.3f, \"ratio\": %.2f",
                first_ ? "" : ",", name.c_str(), milliseconds, what, least, ratio);
    if (bar != 0) std::printf(", \"bar\": %g, \"met\": %s", bar, ratio <= bar ? "true" : "false");
    std::printf("}");
    first_ = false;
  }

  const device_kernels& run_;
  const std::uint64_t bytes_;
  const double density_;
  const int repeats_;
  double bandwidth_ = 0;
  bool first_ = true;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t start_ = nullptr;
  cudaEvent_t end_ = nullptr;
  std::byte* base_ = nullptr;
  std::byte* target_ = nullptr;
  device_layout layout_;
  device_key* key_ = nullptr;
  std::uint64_t batch_ = 0;
  std::uint64_t memory_bytes_ = 0;
  std::byte* memory_ = nullptr;
  std::uint64_t capacity_ = 0;
  std::byte* frames_ = nullptr;
  std::byte* undo_ = nullptr;
  std::uint64_t* frame_at_ = nullptr;
  encode_result* result_ = nullptr;
  checked_frame* checked_ = nullptr;
  std::uint32_t* claims_ = nullptr;
  stage_result* stage_ = nullptr;
  device_digest* sum_ = nullptr;
  device_model* models_ = nullptr;
  std::uint64_t coded_bytes_ = 0;
  std::byte* coded_memory_ = nullptr;
  std::uint64_t decode_bytes_ = 0;
  std::byte* decode_memory_ = nullptr;
  std::byte* made_ = nullptr;
  std::uint64_t* made_at_ = nullptr;
  std::uint64_t* pass_at_ = nullptr;
  encode_result* made_result_ = nullptr;
  std::uint32_t* digested_ = nullptr;
};

}  // namespace

int main(int count, char** arguments) {
  if (cuda_kernels() == nullptr) {
    std::fputs("cuda_bench: no device that this build has code for\n", stderr);
    return 77;
  }
  const double gib = count > 1 ? std::atof(arguments[1]) : 8;
  const double density = count > 2 ? std::atof(arguments[2]) : 0.01;
  const int repeats = count > 3 ? std::atoi(arguments[3]) : 9;
  if (gib <= 0 || density < 0 || density > 1 || repeats < 1) {
    std::fputs("cuda_bench [GIB [DENSITY [REPEATS]]]\n", stderr);
    return 2;
  }
  return bench(static_cast<std::uint64_t>(gib * (1 << 30)) / 16 * 16, density, repeats).all();
}
