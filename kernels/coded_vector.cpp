// Decides the vector form of the dense encoding's loops, compiled once for each instruction set.
#define HWY_DISABLED_TARGETS HWY_SSSE3
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/coded_vector.cpp"
#include <hwy/foreach_target.h>  // includes this file again for each target
#include <hwy/highway.h>

#include "kernels/coded_loops.hpp"
#include "kernels/inner_loops.hpp"

#if HWY_TARGET != HWY_SCALAR
HWY_BEFORE_NAMESPACE();
namespace lockstep::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

namespace {

unsigned count_ones(std::uint64_t mask) {
  return static_cast<unsigned>(__builtin_popcountll(mask));
}

#if !(HWY_ARCH_X86_64 && HWY_TARGET <= HWY_AVX2)
/// The place of the set bit of `mask` that has `n` set bits below it.
unsigned nth_one(std::uint64_t mask, unsigned n) {
  // Halves of 32, 16 and 8 bits: skip the lower one where the bit is not in it.
  unsigned at = 0;
  for (unsigned width = 32; width >= 8; width /= 2) {
    const unsigned ones = count_ones(mask >> at & ((std::uint64_t{1} << width) - 1));
    const bool above = ones <= n;
    at += above ? width : 0;
    n -= above ? ones : 0;
  }
  mask >>= at;
  for (; n > 0; --n) mask &= mask - 1;
  return at + static_cast<unsigned>(__builtin_ctzll(mask));
}
#endif

std::uint64_t deposit(std::uint64_t bits, std::uint64_t mask) {
#if HWY_ARCH_X86_64 && HWY_TARGET <= HWY_AVX2
  return _pdep_u64(bits, mask);
#else
  const unsigned places = count_ones(mask);
  if (places < 64) bits &= (std::uint64_t{1} << places) - 1;
  std::uint64_t result = 0;
  for (; bits != 0; bits &= bits - 1)
    result |= std::uint64_t{1} << nth_one(mask, static_cast<unsigned>(__builtin_ctzll(bits)));
  return result;
#endif
}

/// Keys of as many elements as a vector has bytes, less 128, in order.
template <class D8>
auto keys_at(D8 d8, const std::byte* from, std::uint8_t) {
  const auto v = hn::LoadU(d8, reinterpret_cast<const std::uint8_t*>(from));
  const hn::RebindToSigned<D8> signed8;
  return hn::BitCast(signed8, hn::Xor(hn::Add(v, v), hn::Set(d8, 0x80)));
}

/// The same of half as many 16-bit or a quarter as many 32-bit elements.
template <class DPart, class T>
auto key_part_at(DPart d, const std::byte* from, T) {
  const auto v = hn::LoadU(d, reinterpret_cast<const T*>(from));
  const hn::RebindToSigned<DPart> as_signed;
  const auto biased = hn::Xor(hn::Add(v, v), hn::Set(d, T{1} << (8 * sizeof(T) - 1)));
  const auto keys = hn::ShiftRight<8 * sizeof(T) - 8>(hn::BitCast(as_signed, biased));
  const hn::Rebind<std::int8_t, DPart> narrow;
  return hn::DemoteTo(narrow, keys);
}
template <class D8>
auto keys_at(D8 d8, const std::byte* from, std::uint16_t zero) {
  const hn::Rebind<std::uint16_t, hn::Half<D8>> part;
  const hn::RebindToSigned<D8> signed8;
  const std::size_t bytes = hn::Lanes(part) * 2;
  return hn::Combine(signed8, key_part_at(part, from + bytes, zero),
                     key_part_at(part, from, zero));
}
template <class D8>
auto keys_at(D8 d8, const std::byte* from, std::uint32_t zero) {
  const hn::Half<D8> half;
  const hn::Rebind<std::uint32_t, hn::Half<decltype(half)>> part;
  const hn::RebindToSigned<D8> signed8;
  const hn::RebindToSigned<decltype(half)> signed_half;
  const std::size_t bytes = hn::Lanes(part) * 4;
  const auto low = hn::Combine(signed_half, key_part_at(part, from + bytes, zero),
                               key_part_at(part, from, zero));
  const auto high = hn::Combine(signed_half, key_part_at(part, from + 3 * bytes, zero),
                                key_part_at(part, from + 2 * bytes, zero));
  return hn::Combine(signed8, high, low);
}
/// Elements of 8 bytes are rare: not worth a vector form.
template <class D8>
auto keys_at(D8 d8, const std::byte* from, std::uint64_t) {
  const hn::RebindToSigned<D8> signed8;
  std::int8_t keys[block_elements];
  for (std::size_t i = 0; i < hn::Lanes(d8); ++i)
    keys[i] = static_cast<std::int8_t>((load<std::uint64_t>(from + 8 * i) << 1 >> 56) ^ 0x80);
  return hn::LoadU(signed8, keys);
}

/// Marks elements of `block` that differ, in `bits`.
template <class T>
void mark_changed(const std::byte* old, const std::byte* target, std::uint64_t& bits) {
  const hn::CappedTag<T, block_elements> d;
  const std::size_t lanes = hn::Lanes(d);
  if constexpr (sizeof(T) == 8) {
    bits = 0;
    for (std::size_t i = 0; i < block_elements; ++i)
      bits |= std::uint64_t{load<T>(old + 8 * i) != load<T>(target + 8 * i)} << i;
  } else if constexpr (sizeof(T) == 4) {
    bits = 0;
    std::uint8_t part[8];
    for (std::size_t i = 0; i < block_elements; i += lanes) {
      hn::StoreMaskBits(d,
                        hn::Ne(hn::LoadU(d, reinterpret_cast<const T*>(old + i * sizeof(T))),
                               hn::LoadU(d, reinterpret_cast<const T*>(target + i * sizeof(T)))),
                        part);
      std::uint64_t value = part[0];
      if (lanes > 8) value |= std::uint64_t{part[1]} << 8;
      bits |= value << i;
    }
  } else {
    auto* const out = reinterpret_cast<std::uint8_t*>(&bits);
    for (std::size_t i = 0; i < block_elements; i += lanes)
      hn::StoreMaskBits(d,
                        hn::Ne(hn::LoadU(d, reinterpret_cast<const T*>(old + i * sizeof(T))),
                               hn::LoadU(d, reinterpret_cast<const T*>(target + i * sizeof(T)))),
                        out + i / 8);
  }
}

template <class T>
void mark(const class_model& model, const std::byte* old, const std::byte* target,
          std::size_t blocks, chunk_classes& chunk) {
  const hn::CappedTag<std::uint8_t, block_elements> d8;
  const hn::RebindToSigned<decltype(d8)> signed8;
  const std::size_t lanes = hn::Lanes(d8);
  // A key is not below a threshold if it is above the number before it.
  alignas(64) std::int8_t limits[class_count_max][block_elements];
  for (std::size_t c = 1; c < model.classes; ++c)
    std::memset(limits[c], (model.thresholds[c - 1] - 1) ^ 0x80, block_elements);
  for (std::size_t b = 0; b < blocks; ++b) {
    const std::byte* const from = old + b * block_elements * sizeof(T);
    if (target != nullptr)
      mark_changed<T>(from, target + b * block_elements * sizeof(T), chunk.changed[b]);
    chunk.of[b * class_count_max] = ~std::uint64_t{0};
    auto* const of = reinterpret_cast<std::uint8_t*>(&chunk.of[b * class_count_max]);
    for (std::size_t i = 0; i < block_elements; i += lanes) {
      const auto keys = keys_at(d8, from + i * sizeof(T), T{});
      for (std::size_t c = 1; c < model.classes; ++c)
        hn::StoreMaskBits(signed8, hn::Gt(keys, hn::Load(signed8, limits[c])),
                          of + c * 8 + i / 8);
    }
  }
}

/// From masks of "key is not below threshold c" to masks of "class is c", and their counts.
void count_classes(const class_model& model, std::size_t blocks, chunk_classes& chunk) {
  const hn::CappedTag<std::uint64_t, class_count_max> d;
  const hn::Repartition<std::uint8_t, decltype(d)> d8;
  const std::size_t lanes = hn::Lanes(d);
  alignas(64) std::uint64_t own[class_count_max] = {};
  alignas(64) std::uint64_t above[class_count_max] = {};
  for (std::size_t c = 0; c < model.classes; ++c) {
    own[c] = ~std::uint64_t{0};
    if (c + 1 < model.classes) above[c] = ~std::uint64_t{0};
  }
  auto most = hn::Zero(d);
  for (std::size_t part = 0; part < class_count_max; part += lanes) {
    auto total = hn::Load(d, &chunk.total[part]);
    const auto mask_own = hn::Load(d, own + part);
    const auto mask_above = hn::Load(d, above + part);
    const auto to_dense = hn::Set(d, 63 - sparse_max);
    std::uint64_t* of = &chunk.of[part];
    std::uint64_t* before = &chunk.before[part];
    for (std::size_t b = 0; b < blocks; ++b, of += class_count_max, before += class_count_max) {
      const auto next = hn::And(mask_above, hn::LoadU(d, of + 1));
      const auto members = hn::AndNot(next, hn::And(mask_own, hn::Load(d, of)));
      hn::Store(members, d, of);
      hn::Store(total, d, before);
#if HWY_TARGET == HWY_AVX3_DL
      static_cast<void>(d8);
      const auto ones = hn::PopulationCount(members);
#else
      const auto ones = hn::SumsOf8(hn::PopulationCount(hn::BitCast(d8, members)));
#endif
      total = hn::Add(total, ones);
      most = hn::Or(most, hn::Add(ones, to_dense));  // bit 6: more than sparse_max
    }
    hn::Store(total, d, &chunk.total[part]);
  }
  alignas(64) std::uint64_t bits[class_count_max];
  hn::Store(most, d, bits);
  chunk.dense = false;
  for (std::size_t i = 0; i < lanes; ++i) chunk.dense = chunk.dense || (bits[i] & 64) != 0;
}

template <class T>
void classify(const class_model& model, const std::byte* old, const std::byte* target,
              std::size_t elements, chunk_classes& chunk) {
  const std::size_t blocks = (elements + block_elements - 1) / block_elements;
  mark<T>(model, old, target, blocks, chunk);
  if (const std::size_t rest = elements % block_elements; rest != 0)
    chunk.of[(blocks - 1) * class_count_max] = (std::uint64_t{1} << rest) - 1;
  count_classes(model, blocks, chunk);
}

}  // namespace

#include "kernels/coded_loops-inl.hpp"

}  // namespace lockstep::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HWY_SCALAR

#if HWY_ONCE
#include <hwy/targets.h>

namespace lockstep::kernels {

const all_coded_loops& vector_coded_loops(implementation which) noexcept {
  switch (which) {
#if HWY_TARGETS & HWY_NEON
    case implementation::neon: {
      static constexpr all_coded_loops loops = N_NEON::coded_loops_as(implementation::neon);
      return loops;
    }
#endif
#if HWY_TARGETS & HWY_SSE4
    case implementation::sse4: {
      static constexpr all_coded_loops loops = N_SSE4::coded_loops_as(implementation::sse4);
      return loops;
    }
#endif
#if HWY_TARGETS & HWY_AVX2
    case implementation::avx2: {
      static constexpr all_coded_loops loops = N_AVX2::coded_loops_as(implementation::avx2);
      return loops;
    }
#endif
#if HWY_TARGETS & HWY_AVX3
    case implementation::avx512: {
#if HWY_TARGETS & HWY_AVX3_DL
      static constexpr all_coded_loops newer = N_AVX3_DL::coded_loops_as(implementation::avx512);
      static const bool has_newer = (hwy::SupportedTargets() & HWY_AVX3_DL) != 0;
      if (has_newer) return newer;
#endif
      static constexpr all_coded_loops loops = N_AVX3::coded_loops_as(implementation::avx512);
      return loops;
    }
#endif
    default:
      return portable_coded_loops();
  }
}

}  // namespace lockstep::kernels
#endif  // HWY_ONCE
