// Decides the vector form of the dense encoding's loops, compiled once for each instruction set.
#define HWY_WANT_AVX3_DL
#define HWY_DISABLED_TARGETS HWY_SSSE3
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/coded_vector.cpp"
#include <hwy/foreach_target.h>  // includes this file again for each target
#include <hwy/highway.h>

#include <algorithm>

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

unsigned count_zeros(std::uint64_t mask) {
  return static_cast<unsigned>(__builtin_ctzll(mask));
}

std::size_t list_changes(const chunk_classes& chunk, std::size_t blocks, std::uint16_t* list) {
  std::uint16_t* to = list;
#if HWY_TARGET == HWY_AVX3_DL
  // Without a branch that depends on whether a block changed or how often: neither is predictable.
  // More than half of it is.
  const hn::CappedTag<std::uint16_t, block_elements / 2> d;
  const hn::CappedTag<std::uint8_t, block_elements> d8;
  static_assert(hn::MaxLanes(d) == list_slack);
  const auto all = hn::Iota(d8, 0);
  for (std::size_t b = 0; b < blocks; ++b) {
    const std::uint64_t mask = chunk.changed[b];
    const auto first = hn::Set(d, static_cast<std::uint16_t>(b * block_elements));
    const __m512i packed = _mm512_maskz_compress_epi8(mask, all.raw);
    const unsigned count = count_ones(mask);
    const auto widened = [&](__m256i half) {
      return hn::Or(first, hn::Vec512<std::uint16_t>{_mm512_cvtepu8_epi16(half)});
    };
    hn::StoreU(widened(_mm512_castsi512_si256(packed)), d, to);
    if (count > list_slack)
      hn::StoreU(widened(_mm512_extracti64x4_epi64(packed, 1)), d, to + list_slack);
    to += count;
  }
#else
  for (std::size_t b = 0; b < blocks; ++b)
    for (std::uint64_t mask = chunk.changed[b]; mask != 0; mask &= mask - 1)
      *to++ = static_cast<std::uint16_t>(b * block_elements + count_zeros(mask));
#endif
  return static_cast<std::size_t>(to - list);
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

/// Keys of as many elements as a vector has bytes, in order.
template <class D8>
auto keys_at(D8 d8, const std::byte* from, std::uint8_t) {
  const auto v = hn::LoadU(d8, reinterpret_cast<const std::uint8_t*>(from));
  return hn::Add(v, v);
}

/// The same of half as many 16-bit or a quarter as many 32-bit elements.
template <class DPart, class T>
auto key_part_at(DPart d, const std::byte* from, T) {
  const auto v = hn::LoadU(d, reinterpret_cast<const T*>(from));
  const auto keys = hn::ShiftRight<8 * sizeof(T) - 8>(hn::Add(v, v));
  const hn::RebindToSigned<DPart> as_signed;
  const hn::Rebind<std::uint8_t, DPart> narrow;
  return hn::DemoteTo(narrow, hn::BitCast(as_signed, keys));
}
template <class D8>
auto keys_at(D8 d8, const std::byte* from, std::uint16_t zero) {
  const hn::Rebind<std::uint16_t, hn::Half<D8>> part;
  const std::size_t bytes = hn::Lanes(part) * 2;
  return hn::Combine(d8, key_part_at(part, from + bytes, zero), key_part_at(part, from, zero));
}
template <class D8>
auto keys_at(D8 d8, const std::byte* from, std::uint32_t zero) {
  const hn::Half<D8> half;
  const hn::Rebind<std::uint32_t, hn::Half<decltype(half)>> part;
  const std::size_t bytes = hn::Lanes(part) * 4;
  const auto low =
      hn::Combine(half, key_part_at(part, from + bytes, zero), key_part_at(part, from, zero));
  const auto high = hn::Combine(half, key_part_at(part, from + 3 * bytes, zero),
                                key_part_at(part, from + 2 * bytes, zero));
  return hn::Combine(d8, high, low);
}
/// Elements of 8 bytes are rare: not worth a vector form.
template <class D8>
auto keys_at(D8 d8, const std::byte* from, std::uint64_t) {
  std::uint8_t keys[block_elements];
  for (std::size_t i = 0; i < hn::Lanes(d8); ++i)
    keys[i] = static_cast<std::uint8_t>(load<std::uint64_t>(from + 8 * i) << 1 >> 56);
  return hn::LoadU(d8, keys);
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

/// Bit `Plane` of each lane, as bits.
template <unsigned Plane, class D8, class V>
void store_plane(D8 d8, V classes, std::uint8_t* to) {
#if HWY_ARCH_X86
  // The sign alone is looked at.
  const hn::Repartition<std::uint16_t, D8> d16;
  const auto raised = hn::BitCast(d8, hn::ShiftLeft<7 - Plane>(hn::BitCast(d16, classes)));
  hn::StoreMaskBits(d8, hn::MaskFromVec(raised), to);
#else
  hn::StoreMaskBits(d8, hn::TestBit(classes, hn::Set(d8, 1u << Plane)), to);
#endif
}

/// The bits of the elements' classes, a plane each, and `changed`.
struct class_planes {
  alignas(64) std::uint64_t of[3][chunk_blocks_max];
};

/// `Near`: thresholds are less than 16 apart, so that a table of 16 has the class of every key.
template <bool Near, class T>
void mark(const class_table& table, const std::byte* old, const std::byte* target,
          std::size_t blocks, class_planes& planes, chunk_classes& chunk) {
  const hn::CappedTag<std::uint8_t, block_elements> d8;
  const std::size_t lanes = hn::Lanes(d8);
  const auto lookup = hn::LoadDup128(d8, table.of_near.data());
  const auto front = hn::Set(d8, table.first);
  const auto last = hn::Set(d8, 15);
  for (std::size_t b = 0; b < blocks; ++b) {
    const std::byte* const from = old + b * block_elements * sizeof(T);
    if (target != nullptr) {
      const std::byte* const to = target + b * block_elements * sizeof(T);
      prefetch_ahead(from, block_elements * sizeof(T));
      prefetch_ahead(to, block_elements * sizeof(T));
      mark_changed<T>(from, to, chunk.changed[b]);
    }
    for (std::size_t i = 0; i < block_elements; i += lanes) {
      const auto keys = keys_at(d8, from + i * sizeof(T), T{});
      auto classes = hn::Zero(d8);
      if constexpr (Near) {
        const auto index = hn::Min(hn::SaturatedSub(keys, front), last);
        classes = hn::TableLookupBytes(lookup, index);
      } else {
        for (std::size_t c = 1; c < table.classes; ++c) {
          const auto limit = hn::Set(d8, table.thresholds[c - 1]);
          const auto above = hn::VecFromMask(d8, hn::Eq(hn::Max(keys, limit), keys));
          classes = hn::Sub(classes, above);
        }
      }
      const auto at = [&](std::size_t plane) {
        return reinterpret_cast<std::uint8_t*>(&planes.of[plane][b]) + i / 8;
      };
      store_plane<0>(d8, classes, at(0));
      store_plane<1>(d8, classes, at(1));
      store_plane<2>(d8, classes, at(2));
    }
  }
}

/// From planes to masks of the classes, and their counts. `valid`: elements of the last block.
void count_classes(std::size_t blocks, std::uint64_t valid, const class_planes& planes,
                   chunk_classes& chunk) {
  const hn::CappedTag<std::uint64_t, class_count_max> d;
  [[maybe_unused]] const hn::Repartition<std::uint8_t, decltype(d)> d8;
  const std::size_t lanes = hn::Lanes(d);
  // A class is where each plane, inverted by this, is set.
  alignas(64) std::uint64_t inverted[3][class_count_max];
  for (std::size_t c = 0; c < class_count_max; ++c)
    for (std::size_t plane = 0; plane < 3; ++plane)
      inverted[plane][c] = (c >> plane & 1) != 0 ? 0 : ~std::uint64_t{0};
  auto most = hn::Zero(d);
  const auto to_dense = hn::Set(d, 63 - sparse_max);
  for (std::size_t part = 0; part < class_count_max; part += lanes) {
    auto total = hn::Load(d, &chunk.total[part]);
    const auto invert0 = hn::Load(d, inverted[0] + part);
    const auto invert1 = hn::Load(d, inverted[1] + part);
    const auto invert2 = hn::Load(d, inverted[2] + part);
    const auto add = [&](std::size_t b, auto members) {
      hn::Store(members, d, &chunk.of[b * class_count_max + part]);
      hn::Store(total, d, &chunk.before[b * class_count_max + part]);
#if HWY_TARGET == HWY_AVX3_DL
      const auto ones = hn::PopulationCount(members);
#else
      const auto ones = hn::SumsOf8(hn::PopulationCount(hn::BitCast(d8, members)));
#endif
      total = hn::Add(total, ones);
      most = hn::Or(most, hn::Add(ones, to_dense));  // bit 6: more than sparse_max
    };
    const auto members_of = [&](std::size_t b) {
      const auto plane0 = hn::Xor(invert0, hn::Set(d, planes.of[0][b]));
      const auto plane1 = hn::Xor(invert1, hn::Set(d, planes.of[1][b]));
      const auto plane2 = hn::Xor(invert2, hn::Set(d, planes.of[2][b]));
      return hn::And(plane0, hn::And(plane1, plane2));
    };
    for (std::size_t b = 0; b + 1 < blocks; ++b) add(b, members_of(b));
    add(blocks - 1, hn::And(members_of(blocks - 1), hn::Set(d, valid)));
    hn::Store(total, d, &chunk.total[part]);
  }
  alignas(64) std::uint64_t bits[class_count_max];
  hn::Store(most, d, bits);
  chunk.dense = false;
  for (std::size_t i = 0; i < lanes; ++i) chunk.dense = chunk.dense || (bits[i] & 64) != 0;
}

#if HWY_TARGET == HWY_AVX3_DL
/// The same at once for 16-bit elements where thresholds are near: from keys to a byte with the bit
/// of the class, and from 8 x 8 of these bits for each 8 elements to 8 bytes for each class.
__attribute__((target(HWY_TARGET_STR ",gfni"))) void classify_near_2(const class_table& table,
                                                                     const std::byte* old,
                                                                     const std::byte* target,
                                                                     std::size_t elements,
                                                                     chunk_classes& chunk) {
  const std::size_t blocks = (elements + block_elements - 1) / block_elements;
  alignas(16) std::uint8_t bit_of_near[16];
  for (std::size_t i = 0; i < 16; ++i)
    bit_of_near[i] = static_cast<std::uint8_t>(1u << table.of_near[i]);
  const __m512i lookup =
      _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(bit_of_near)));
  const __m512i front = _mm512_set1_epi8(static_cast<char>(table.first));
  const __m512i last = _mm512_set1_epi8(15);
  // Where a word of the pack has its elements: in a vector's quarters, the lower half from `low`.
  alignas(64) std::uint8_t gather[64];
  for (std::size_t c = 0; c < 8; ++c)
    for (std::size_t eight = 0; eight < 8; ++eight)
      gather[8 * c + eight] =
          static_cast<std::uint8_t>(8 * (eight < 4 ? 2 * eight : 2 * (eight - 4) + 1) + c);
  const __m512i transpose = _mm512_load_si512(gather);
  const __m512i diagonal = _mm512_set1_epi64(static_cast<long long>(0x8040201008040201));
  __m512i total = _mm512_load_si512(chunk.total.data());
  __m512i most = _mm512_setzero_si512();
  const std::size_t rest = elements % block_elements;
  const std::uint64_t valid = ~std::uint64_t{0} >> (rest == 0 ? 0 : 64 - rest);
  for (std::size_t b = 0; b < blocks; ++b) {
    const std::byte* const from = old + b * block_elements * 2;
    const __m512i low = _mm512_loadu_si512(from);
    const __m512i high = _mm512_loadu_si512(from + 64);
    if (target != nullptr) {
      const std::byte* const to = target + b * block_elements * 2;
      prefetch_ahead(from, 128);
      prefetch_ahead(to, 128);
      // Joined as masks: GCC 12 may spill one as 32 bits and read it back as 64.
      const __mmask32 in_low = _mm512_cmpneq_epi16_mask(low, _mm512_loadu_si512(to));
      const __mmask32 in_high = _mm512_cmpneq_epi16_mask(high, _mm512_loadu_si512(to + 64));
      chunk.changed[b] = _mm512_kunpackd(in_high, in_low);
    }
    const __m512i keys = _mm512_packus_epi16(_mm512_srli_epi16(_mm512_add_epi16(low, low), 8),
                                             _mm512_srli_epi16(_mm512_add_epi16(high, high), 8));
    const __m512i index = _mm512_min_epu8(_mm512_subs_epu8(keys, front), last);
    const __m512i bits = _mm512_shuffle_epi8(lookup, index);
    // Each word of 8 bytes, transposed as bits; that leaves the bits of each byte turned round.
    const __m512i turned = _mm512_gf2p8affine_epi64_epi8(diagonal, bits, 0);
    __m512i members =
        _mm512_gf2p8affine_epi64_epi8(_mm512_permutexvar_epi8(transpose, turned), diagonal, 0);
    if (b + 1 == blocks)
      members = _mm512_and_si512(members, _mm512_set1_epi64(static_cast<long long>(valid)));
    _mm512_store_si512(&chunk.of[b * class_count_max], members);
    _mm512_store_si512(&chunk.before[b * class_count_max], total);
    const __m512i ones = _mm512_popcnt_epi64(members);
    total = _mm512_add_epi64(total, ones);
    most = _mm512_max_epu32(most, ones);
  }
  _mm512_store_si512(chunk.total.data(), total);
  chunk.dense =
      _mm512_cmpgt_epu64_mask(most, _mm512_set1_epi64(static_cast<long long>(sparse_max))) != 0;
}
#endif

template <class T>
void classify(const class_table& table, const std::byte* old, const std::byte* target,
              std::size_t elements, chunk_classes& chunk) {
  const std::size_t blocks = (elements + block_elements - 1) / block_elements;
#if HWY_TARGET == HWY_AVX3_DL
  if constexpr (sizeof(T) == 2)
    if (table.near) return classify_near_2(table, old, target, elements, chunk);
#endif
  class_planes planes;
  if (table.near)
    mark<true, T>(table, old, target, blocks, planes, chunk);
  else
    mark<false, T>(table, old, target, blocks, planes, chunk);
  const std::size_t rest = elements % block_elements;
  const std::uint64_t valid = ~std::uint64_t{0} >> (rest == 0 ? 0 : 64 - rest);
  count_classes(blocks, valid, planes, chunk);
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
      static constexpr all_coded_loops loops = N_AVX3::coded_loops_as(implementation::avx512);
      return loops;
    }
#endif
#if HWY_TARGETS & HWY_AVX3_DL
    case implementation::avx512_dl: {
      static constexpr all_coded_loops loops = N_AVX3_DL::coded_loops_as(implementation::avx512_dl);
      return loops;
    }
#endif
    default:
      return portable_coded_loops();
  }
}

}  // namespace lockstep::kernels
#endif  // HWY_ONCE
