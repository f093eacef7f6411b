// Decides the inner loops' vector form, compiled once for each instruction set by Highway.
// The sets between those listed in dispatch.hpp gain nothing here.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/vector.cpp"
#include <hwy/foreach_target.h>  // includes this file again for each target
#include <hwy/highway.h>

#include "kernels/coded_loops.hpp"
#include "kernels/inner_loops.hpp"

// Plain C++ is portable.cpp's part.
#if HWY_TARGET != HWY_SCALAR
HWY_BEFORE_NAMESPACE();
namespace lockstep::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

namespace {

const std::uint8_t* as_u8(const std::byte* bytes) {
  return reinterpret_cast<const std::uint8_t*>(bytes);
}

void compare(const std::byte* a, const std::byte* b, std::size_t blocks, std::uint64_t* masks) {
  const hn::CappedTag<std::uint8_t, block_bytes> d;
  const std::size_t lanes = hn::Lanes(d);
  const std::uint8_t* const left = as_u8(a);
  const std::uint8_t* const right = as_u8(b);
  auto* const bits = reinterpret_cast<std::uint8_t*>(masks);
  for (std::size_t at = 0; at < blocks * block_bytes; at += block_bytes) {
    for (std::size_t part = at; part < at + block_bytes; part += lanes) {
      const auto differ = hn::Ne(hn::LoadU(d, left + part), hn::LoadU(d, right + part));
      hn::StoreMaskBits(d, differ, bits + part / 8);
    }
  }
}

/// The sum of a vector's lanes. Not Highway's: on AVX-512 that ends in the compiler's own header,
/// whose signed addition the sanitizer reports.
template <class Vector>
std::uint64_t total(Vector sums) {
  const hn::DFromV<Vector> d;
  std::uint64_t parts[HWY_MAX_BYTES / 8];
  hn::StoreU(sums, d, parts);
  std::uint64_t result = 0;
  for (std::size_t i = 0; i < hn::Lanes(d); ++i) result += parts[i];
  return result;
}

void add_words(const std::uint64_t* key, const std::byte* data, std::size_t count,
               std::uint64_t* lanes) {
  const hn::ScalableTag<std::uint64_t> d64;
  const hn::Repartition<std::uint32_t, decltype(d64)> d32;
  const hn::Repartition<std::uint8_t, decltype(d64)> d8;
  const std::size_t step = hn::Lanes(d64);
  auto sum0 = hn::Zero(d64);
  auto sum1 = hn::Zero(d64);
  std::size_t i = 0;
  for (; i + step <= count; i += step) {
    prefetch_ahead(data + i * 8, step * 8);
    const auto words = hn::BitCast(d32, hn::LoadU(d8, as_u8(data) + i * 8));
    const auto mixed0 = hn::Add(words, hn::BitCast(d32, hn::LoadU(d64, key + i)));
    const auto mixed1 = hn::Add(words, hn::BitCast(d32, hn::LoadU(d64, key + i + 1)));
    const auto high0 = hn::BitCast(d32, hn::ShiftRight<32>(hn::BitCast(d64, mixed0)));
    const auto high1 = hn::BitCast(d32, hn::ShiftRight<32>(hn::BitCast(d64, mixed1)));
    sum0 = hn::Add(sum0, hn::MulEven(mixed0, high0));
    sum1 = hn::Add(sum1, hn::MulEven(mixed1, high1));
  }
  lanes[0] += total(sum0);
  lanes[1] += total(sum1);
  for (; i < count; ++i) {
    const auto word = load<std::uint64_t>(data + i * 8);
    lanes[0] += nh(word, key[i]);
    lanes[1] += nh(word, key[i + 1]);
  }
}

}  // namespace

// Not every target that the build lists is offered by dispatch.hpp.
[[maybe_unused]] constexpr inner_loops loops_as(implementation which) {
  return {which, compare, add_words};
}

}  // namespace lockstep::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HWY_SCALAR

#if HWY_ONCE
#include <hwy/targets.h>

namespace lockstep::kernels {

std::size_t vector_loops(const inner_loops** found) noexcept {
  [[maybe_unused]] const auto supported = hwy::SupportedTargets();
  std::size_t count = 0;
#if HWY_TARGETS & HWY_NEON
  static constexpr inner_loops neon = N_NEON::loops_as(implementation::neon);
  if ((supported & HWY_NEON) != 0) found[count++] = &neon;
#endif
#if HWY_TARGETS & HWY_SSE4
  static constexpr inner_loops sse4 = N_SSE4::loops_as(implementation::sse4);
  if ((supported & HWY_SSE4) != 0) found[count++] = &sse4;
#endif
#if HWY_TARGETS & HWY_AVX2
  static constexpr inner_loops avx2 = N_AVX2::loops_as(implementation::avx2);
  if ((supported & HWY_AVX2) != 0) found[count++] = &avx2;
#endif
#if HWY_TARGETS & HWY_AVX3
  static constexpr inner_loops avx512 = N_AVX3::loops_as(implementation::avx512);
  if ((supported & HWY_AVX3) != 0) found[count++] = &avx512;
  // Only loops of the coded encoding differ. Highway does not ask for GFNI, which all machines with
  // the others have.
  static constexpr inner_loops avx512_dl = N_AVX3::loops_as(implementation::avx512_dl);
  const bool built = vector_coded_loops(avx512_dl.which).which == avx512_dl.which;
  if (built && (supported & HWY_AVX3_DL) != 0 && __builtin_cpu_supports("gfni") != 0)
    found[count++] = &avx512_dl;
#endif
  static_cast<void>(found);
  return count;
}

}  // namespace lockstep::kernels
#endif  // HWY_ONCE
