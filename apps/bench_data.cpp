#include "apps/bench_data.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "weights/checkpoint.hpp"
#include "weights/published.hpp"

namespace lockstep {
namespace {

/// Nearest bf16, ties to even. `value` is finite.
std::uint16_t to_bf16(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/// Numbers of a training run; quick, and the same everywhere but for the last bit of `exp` and
/// `log` in the C library.
class made_up_training {
 public:
  made_up_training() {
    std::mt19937_64 random(20261124);
    std::normal_distribution<float> normal;
    for (auto& x : normals_) x = normal(random);
  }

  /// A weight before and after a step of `rate`.
  std::pair<std::uint16_t, std::uint16_t> step(float rate) noexcept {
    // xorshift64*, Vigna 2016.
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    const std::uint64_t x = state_ * 0x2545f4914f6cdd1d;
    const float jitter = 1 + static_cast<float>(x >> 40 & 0xfff) * 0x1p-18f;
    const float weight = 0.02f * normals_[x & mask] * jitter;
    return {to_bf16(weight), to_bf16(weight + rate * normals_[x >> 20 & mask])};
  }

 private:
  static constexpr std::size_t mask = 0xffff;
  std::array<float, mask + 1> normals_;
  std::uint64_t state_ = 88172645463325252;
};

/// The rate at which about `density` of the elements change.
float rate_for(double density) {
  float low = 1e-12f;
  float high = 1;
  for (int i = 0; i < 40; ++i) {
    const float rate = std::sqrt(low * high);
    made_up_training training;
    constexpr int samples = 200'000;
    int changed = 0;
    for (int j = 0; j < samples; ++j) {
      const auto [before, after] = training.step(rate);
      changed += before != after ? 1 : 0;
    }
    (changed < density * samples ? low : high) = rate;
  }
  return low;
}

/// bf16 tensors as a transformer has them: many of 32 MiB, a vector beside each.
layout synthetic_layout(std::uint64_t bytes) {
  constexpr std::uint64_t rows = 4096;
  std::vector<tensor_spec> tensors;
  for (std::uint64_t left = bytes / 2; left > 0;) {
    const std::uint64_t width = std::min<std::uint64_t>(left / rows, 4096);
    const auto number = std::to_string(tensors.size());
    if (width == 0) {
      tensors.push_back({"rest", dtype::bf16, {left}});
      break;
    }
    tensors.push_back({"layer" + number + ".weight", dtype::bf16, {rows, width}});
    left -= rows * width;
    const std::uint64_t vector = std::min<std::uint64_t>(left, 4096);
    if (vector > 0) tensors.push_back({"layer" + number + ".norm", dtype::bf16, {vector}});
    left -= vector;
  }
  return layout(std::move(tensors));
}

}  // namespace

std::optional<synthetic_size> parse_synthetic(std::string_view text) noexcept {
  synthetic_size size;
  const char* const end = text.data() + text.size();
  auto [at, failed] = std::from_chars(text.data(), end, size.bytes);
  if (failed != std::errc{}) return std::nullopt;
  std::string_view rest(at, static_cast<std::size_t>(end - at));
  unsigned shift = 0;
  for (const auto& [suffix, bits] : {std::pair{"KiB", 10u}, {"MiB", 20u}, {"GiB", 30u}})
    if (rest.starts_with(suffix)) shift = bits;
  if (shift != 0) rest.remove_prefix(3);
  if (!rest.starts_with(',') || size.bytes > std::uint64_t{1} << (40 - shift)) return std::nullopt;
  size.bytes = (size.bytes << shift) / 2 * 2;
  rest.remove_prefix(1);
  const auto density = std::from_chars(rest.data(), end, size.density);
  if (density.ec != std::errc{} || density.ptr != end) return std::nullopt;
  if (size.bytes == 0 || !(size.density > 0 && size.density <= 1)) return std::nullopt;
  return size;
}

bench_data bench_data::trace(const std::filesystem::path& dir) {
  const auto base = checkpoint::open(dir / "base");
  bench_data out;
  out.target_ = weight_buffer(base.shape());
  out.target_.copy_from(base);
  out.base_ = out.target_.clone();
  out.stream_ = weight_stream::open(dir / "stream", base.shape());
  return out;
}

bench_data bench_data::synthetic(synthetic_size size) {
  bench_data out;
  out.base_ = weight_buffer(synthetic_layout(size.bytes));
  out.target_ = weight_buffer(out.base_.shape());
  const float rate = rate_for(size.density);
  made_up_training training;
  for (std::size_t i = 0; i < out.base_.shape().count(); ++i) {
    auto* base = out.base_.tensor(i).data();
    auto* target = out.target_.tensor(i).data();
    for (std::size_t at = 0; at < out.base_.tensor(i).size(); at += 2) {
      const auto [before, after] = training.step(rate);
      std::memcpy(base + at, &before, 2);
      std::memcpy(target + at, &after, 2);
    }
  }
  return out;
}

bool bench_data::next() {
  if (!stream_) return step_++ == 0;
  if (step_ == stream_->versions().size()) return false;
  base_.copy_from(target_);
  stream_->load(step_++, target_);
  return true;
}

void bench_data::write(const std::filesystem::path& dir) const {
  write_safetensors(dir / "base" / "model.safetensors", base_);
  publish_delta(dir / "stream", 1, 0, shape(), reader_of(base_), reader_of(target_));
}

}  // namespace lockstep
