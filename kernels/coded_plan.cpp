#include <algorithm>
#include <array>
#include <stdexcept>

#include "kernels/coded.hpp"
#include "kernels/frame_layout.hpp"
#include "kernels/inner_loops.hpp"

namespace lockstep::kernels {
namespace {

// Integers only: a model is the same on every machine.

constexpr std::size_t key_count = 256;
constexpr std::size_t piece_bytes = 1024;
/// Bits, times 2^16, that a class costs in each frame.
constexpr std::uint64_t class_cost = std::uint64_t{24} << 16;
/// One bit of so many is given up for fewer classes, in tensors that are not small.
constexpr std::uint64_t bits_for_speed = 32;

/// log2(1 + i / 256) * 2^16, rounded down.
struct log2_table {
  std::array<std::uint32_t, 257> of;

  log2_table() noexcept {
    for (std::size_t i = 0; i < of.size(); ++i) {
      // A mantissa in [2^31, 2^32), squared once for each bit of the logarithm.
      std::uint64_t mantissa = (std::uint64_t{256} + i) << 23;
      std::uint32_t result = 0;
      if (mantissa >> 32 != 0) {
        of[i] = 1u << 16;
        continue;
      }
      for (int bit = 0; bit < 16; ++bit) {
        mantissa = mantissa * mantissa >> 31;
        result <<= 1;
        if (mantissa >> 32 == 0) continue;
        mantissa >>= 1;
        ++result;
      }
      of[i] = result;
    }
  }
};

/// log2(x) * 2^16, x > 0, to about 2^-16.
std::uint64_t log2_of(std::uint64_t x) noexcept {
  static const log2_table table;
  const auto whole = static_cast<unsigned>(63 - __builtin_clzll(x));
  const auto mantissa = static_cast<std::uint32_t>(x << (63 - whole) >> 32);  // [2^31, 2^32)
  const std::uint32_t index = mantissa >> 23 & 0xff;
  const std::uint64_t between = mantissa & 0x7fffff;
  const std::uint64_t low = table.of[index];
  return (std::uint64_t{whole} << 16) + low + ((table.of[index + 1] - low) * between >> 23);
}

/// Bits, times 2^16, to say which `some` of `all` (below 2^32) are meant.
std::uint64_t choice_cost(std::uint64_t all, std::uint64_t some) noexcept {
  if (some == 0 || some == all) return 0;
  const std::uint64_t rest = all - some;
  return all * log2_of(all) - some * log2_of(some) - rest * log2_of(rest);
}

/// What was seen of elements with one key, or with several.
struct tally {
  std::uint64_t elements = 0;
  std::uint64_t changes = 0;
  std::uint64_t large = 0;  ///< changes by more than one step

  tally& operator+=(const tally& x) noexcept {
    elements += x.elements;
    changes += x.changes;
    large += x.large;
    return *this;
  }
  tally operator-(const tally& x) const noexcept {
    return {elements - x.elements, changes - x.changes, large - x.large};
  }
  std::uint64_t cost() const noexcept {
    return choice_cost(elements, changes) + choice_cost(changes, large);
  }
};

template <class T>
T in_order(T bits) noexcept {
  constexpr unsigned top = 8 * sizeof(T) - 1;
  return static_cast<T>(bits >> top != 0 ? ~bits : bits | T{1} << top);
}

/// Whether the difference, mod 2^width, is -1 or 1.
template <class T>
bool is_one_step(T from, T to) noexcept {
  const auto added = static_cast<T>(to - from);
  return static_cast<T>(added + 1) <= 2;
}

bool is_one_nibble(unsigned from, unsigned to) noexcept {
  return (from ^ to) < 16 || ((from ^ to) & 15) == 0;
}

/// Samples of a tensor's two states.
template <class T>
class sample {
 public:
  /// `stride`: of so many elements one is counted, and stands for all of them. Changes are all
  /// seen.
  void look(const std::byte* base, const std::byte* target, std::size_t bytes, std::size_t stride) {
    const std::size_t elements = bytes / sizeof(T);
    const auto key_at = [&](std::size_t i) -> std::size_t {
      return static_cast<T>(load<T>(base + i * sizeof(T)) << 1) >> (8 * sizeof(T) - 8);
    };
    std::size_t i = 0;
    // Four tables: equal keys often follow one another.
    for (; i + 3 * stride < elements; i += 4 * stride)
      for (std::size_t j = 0; j < 4; ++j) ++counts_[j][key_at(i + j * stride)];
    for (; i < elements; i += stride) ++counts_[0][key_at(i)];
    const inner_loops& loops = active_loops();
    std::uint64_t masks[piece_bytes / block_bytes];
    loops.compare(base, target, bytes / block_bytes, masks);
    for (std::size_t b = 0; b < bytes / block_bytes; ++b)
      for (auto left = by_element(masks[b]); left != 0; left &= left - 1)
        compare_at(base, target, b * block_bytes + static_cast<std::size_t>(__builtin_ctzll(left)));
    for (std::size_t at = bytes / block_bytes * block_bytes; at < bytes; at += sizeof(T))
      compare_at(base, target, at);
  }

  class_model model(std::uint64_t tensor_bytes, std::uint64_t sample_bytes, std::size_t stride) {
    for (const auto& table : counts_)
      for (std::size_t key = 0; key < key_count; ++key)
        seen_[key].elements += std::uint64_t{table[key]} * stride;
    // A key that was seen to change was there at least as often.
    for (auto& of : seen_) of.elements = std::max(of.elements, of.changes);
    class_model result;
    result.order = order();
    const std::uint64_t frames = 1 + (tensor_bytes - 1) / frame_span_bytes_max;
    const std::uint64_t scale = std::max<std::uint64_t>(1, tensor_bytes / sample_bytes);
    choose_thresholds(std::max<std::uint64_t>(1, class_cost * frames / scale), frames > 1, result);
    return result;
  }

 private:
  /// One bit for each element of which a byte differs, at its first byte's place.
  static std::uint64_t by_element(std::uint64_t bytes) noexcept {
    for (unsigned width = 1; width < sizeof(T); width *= 2) bytes |= bytes >> width;
    return bytes & ~std::uint64_t{0} / ((std::uint64_t{1} << sizeof(T)) - 1);
  }

  void compare_at(const std::byte* base, const std::byte* target, std::size_t at) {
    const T from = load<T>(base + at);
    const T to = load<T>(target + at);
    if (from == to) return;
    const bool one = is_one_step(in_order(from), in_order(to));
    near_in_integers_ += is_one_step(from, to);
    near_as_numbers_ += one;
    if constexpr (sizeof(T) == 1) near_in_nibbles_ += is_one_nibble(from, to);
    auto& seen = seen_[static_cast<T>(from << 1) >> (8 * sizeof(T) - 8)];
    ++seen.changes;
    seen.large += !one;
    ++changes_;
  }

  /// Nibbles only where nearly all changes stay in one, and are not near as whole bytes.
  step_order order() const noexcept {
    const std::uint64_t near = std::max(near_in_integers_, near_as_numbers_);
    if (sizeof(T) == 1 && near * 4 < changes_ * 3 && near_in_nibbles_ * 8 > changes_ * 7)
      return step_order::nibbles;
    return near_in_integers_ > near_as_numbers_ ? step_order::integer : step_order::sign_magnitude;
  }

  /// The cut of the keys into up to eight runs that costs least, classes included.
  void choose_thresholds(std::uint64_t cost_of_class, bool takes_time, class_model& result) const {
    std::array<tally, bins_max + 1> up_to;  // of the first bins
    std::array<std::uint8_t, bins_max> first_key{};
    for (std::size_t width = 1;; width *= 2) {
      std::size_t bins = 0;
      tally all;
      bool quiet = false;
      std::size_t key = 0;
      for (; key < key_count; key += width) {
        tally one;
        for (std::size_t i = key; i < key + width; ++i) one += seen_[i];
        if (one.elements == 0) continue;
        all += one;
        // Keys without a change that follow one another cannot be told apart.
        if (one.changes != 0 || !quiet || bins == 0) {
          if (bins == bins_max) break;
          first_key[bins++] = static_cast<std::uint8_t>(key);
        }
        up_to[bins] = all;
        quiet = one.changes == 0;
      }
      if (key >= key_count) return cut(up_to, first_key, bins, cost_of_class, takes_time, result);
    }
  }

  static constexpr std::size_t bins_max = 40;

  template <class UpTo, class Keys>
  static void cut(const UpTo& up_to, const Keys& key_of, std::size_t keys,
                  std::uint64_t cost_of_class, bool takes_time, class_model& result) {
    std::array<std::array<std::uint64_t, bins_max + 1>, class_count_max + 1> least;
    std::array<std::array<std::uint8_t, bins_max + 1>, class_count_max + 1> from{};
    for (auto& row : least) row.fill(~std::uint64_t{0} / 2);
    least[0][0] = 0;
    for (std::size_t last = 1; last <= keys; ++last) {
      for (std::size_t first = 0; first < last; ++first) {
        const std::uint64_t cost = (up_to[last] - up_to[first]).cost() + cost_of_class;
        for (std::size_t k = 1; k <= class_count_max; ++k) {
          if (least[k - 1][first] + cost >= least[k][last]) continue;
          least[k][last] = least[k - 1][first] + cost;
          from[k][last] = static_cast<std::uint8_t>(first);
        }
      }
    }
    std::size_t best = 1;
    for (std::size_t k = 2; k <= class_count_max; ++k)
      if (least[k][keys] < least[best][keys]) best = k;
    // Each class more takes time for every element, on both sides: the fewest that cost little. Not
    // for a tensor of one range: there is no time to win, and its headers weigh more as it is.
    const std::uint64_t enough =
        least[best][keys] + (takes_time ? least[best][keys] / bits_for_speed : 0);
    while (best > 1 && least[best - 1][keys] <= enough) --best;
    result.classes = static_cast<std::uint8_t>(best);
    for (std::size_t last = keys; best > 1; --best) {
      last = from[best][last];
      result.thresholds[best - 2] = key_of[last];
    }
  }

  std::array<std::array<std::uint32_t, key_count>, 4> counts_{};
  std::array<tally, key_count> seen_{};
  std::uint64_t changes_ = 0;
  std::uint64_t near_in_integers_ = 0;
  std::uint64_t near_as_numbers_ = 0;
  std::uint64_t near_in_nibbles_ = 0;
};

}  // namespace

class_model plan_classes(tensor_view base, tensor_view target) {
  if (base.bytes.size != target.bytes.size || base.unit != target.unit)
    throw std::invalid_argument("frame: base and target differ in size or unit");
  require_range(target, 0);
  const std::size_t size = base.bytes.size;
  if (size == 0) return {};
  // All of a small tensor; of a large one pieces, further apart the larger it is.
  std::size_t pieces = (size + piece_bytes - 1) / piece_bytes;
  // Odd: elements that come by fours or eights are not all of one kind.
  const std::size_t stride = pieces > 16 ? 5 : 1;
  if (pieces > 96) pieces = std::min<std::size_t>(64 + pieces / 128, 192);
  class_model result;
  with_unit(base.unit, [&](auto zero) {
    sample<decltype(zero)> seen;
    std::uint64_t bytes = 0;
    for (std::size_t i = 0; i < pieces; ++i) {
      const std::size_t at = size / pieces * i / 64 * 64;
      const std::size_t length = std::min(piece_bytes, size - at);
      seen.look(base.bytes.data + at, target.bytes.data + at, length, stride);
      bytes += length;
    }
    result = seen.model(size, bytes, stride);
  });
  return result;
}

}  // namespace lockstep::kernels
