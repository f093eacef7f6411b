// Decides what a coded payload means by docs/wire-format.md, bit by bit and element by element:
// what the kernels are held against.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "kernels/frame.hpp"

namespace lockstep::kernels {

/// Reads the payload of a coded frame on the bytes of its range.
class plain_decoder {
 public:
  plain_decoder(const frame& f, bytes_view range) : frame_(f), range_(range) {}

  /// The range's new bytes; nothing if the payload is not one of this base.
  std::optional<std::vector<std::byte>> run() {
    if (!read_table()) return std::nullopt;
    std::size_t fixed = 0;
    for (const auto& c : classes_) fixed += c.count * (c.gap_bits + 1 + c.value_bits);
    if (!read_fields() || !skip_to_byte(at_byte_ * 8 + fixed)) return std::nullopt;
    for (auto& c : classes_)
      for (std::size_t i = 0; i < c.count; ++i) {
        std::size_t zeros = 0;
        if (!unary(zeros)) return std::nullopt;
        c.gaps[i] |= zeros << c.gap_bits;
      }
    for (auto& c : classes_)
      if (!read_exceptions(c)) return std::nullopt;
    if (!skip_to_byte(at_) || at_ != frame_.payload.size * 8) return std::nullopt;
    return apply();
  }

 private:
  struct coded {
    std::size_t count = 0;
    std::size_t exceptions = 0;
    unsigned gap_bits = 0;
    unsigned value_bits = 0;
    std::vector<std::size_t> gaps;
    std::vector<std::uint64_t> sizes;  // less one
    std::vector<bool> down;
  };

  std::size_t byte() {
    if (at_byte_ >= frame_.payload.size) {
      failed_ = true;
      return 0;
    }
    return std::to_integer<std::size_t>(frame_.payload.data[at_byte_++]);
  }
  std::size_t number() {
    std::size_t value = 0;
    for (int i = 0; i < 3; ++i) {
      const std::size_t next = byte();
      value |= (next & 127) << 7 * i;
      if (next < 128) {
        if (next == 0 && i > 0) failed_ = true;
        return value;
      }
    }
    failed_ = true;
    return 0;
  }

  bool read_thresholds(std::size_t count, bool far) {
    if (count > 0) thresholds_.push_back(byte());
    if (count > 0 && thresholds_[0] == 0) return false;
    bool any_far = false;
    std::vector<std::size_t> halves;
    for (std::size_t i = 1; i < count; ++i) {
      std::size_t distance = 0;
      if (far) {
        const std::size_t next = byte();
        if (next <= thresholds_.back()) return false;
        distance = next - thresholds_.back();
      } else {
        if (halves.empty()) {
          const std::size_t both = byte();
          halves = {both & 15, both >> 4};
        }
        distance = halves.front() + 1;
        halves.erase(halves.begin());
      }
      any_far = any_far || distance > 16;
      thresholds_.push_back(thresholds_.back() + distance);
      if (thresholds_.back() > 255) return false;
    }
    return far == any_far && (halves.empty() || halves.front() == 0);
  }

  bool read_table() {
    const std::size_t first = byte();
    order_ = first >> 3 & 3;
    const bool far = (first & 32) != 0;
    if (first > 63 || order_ > 2 || (order_ == 2 && frame_.unit != 1)) return false;
    classes_.resize((first & 7) + 1);
    if (!read_thresholds(classes_.size() - 1, far)) return false;
    std::size_t left = frame_.count;
    for (auto& c : classes_) {
      c.count = &c == &classes_.back() ? left : number();
      if (failed_ || c.count > left) return false;
      left -= c.count;
      if (c.count == 0) continue;
      const std::size_t how = byte();
      c.gap_bits = static_cast<unsigned>(how & 31);
      if ((how & 32) != 0 && (c.value_bits = static_cast<unsigned>(byte())) == 0) return false;
      if ((how & 64) != 0 && (c.exceptions = number()) == 0) return false;
      if (how > 127 || c.gap_bits > 20 || c.value_bits > 35 || c.value_bits >= 8 * frame_.unit ||
          c.exceptions > c.count)
        return false;
    }
    return !failed_;
  }

  bool bit(std::size_t& value) {
    if (at_ >= frame_.payload.size * 8) return false;
    value = std::to_integer<std::size_t>(frame_.payload.data[at_ / 8]) >> at_ % 8 & 1;
    ++at_;
    return true;
  }
  bool bits(unsigned count, std::uint64_t& value) {
    value = 0;
    for (unsigned i = 0; i < count; ++i) {
      std::size_t one = 0;
      if (!bit(one)) return false;
      value |= std::uint64_t{one} << i;
    }
    return true;
  }
  bool unary(std::size_t& zeros) {
    std::size_t one = 0;
    for (zeros = 0; bit(one); ++zeros)
      if (one != 0) return true;
    return false;
  }
  /// The rest of the byte that `at_` is in is zeros, and `at_` was to be `expected`.
  bool skip_to_byte(std::size_t expected) {
    if (at_ != expected) return false;
    std::size_t one = 0;
    while (at_ % 8 != 0)
      if (!bit(one) || one != 0) return false;
    return true;
  }

  bool read_fields() {
    at_ = at_byte_ * 8;
    for (auto& c : classes_)
      for (std::size_t i = 0; i < c.count; ++i) {
        std::uint64_t gap = 0;
        std::uint64_t down = 0;
        std::uint64_t size = 0;
        if (!bits(c.gap_bits, gap) || !bits(1, down) || !bits(c.value_bits, size)) return false;
        c.gaps.push_back(gap);
        c.down.push_back(down != 0);
        c.sizes.push_back(size);
      }
    return true;
  }

  bool read_exceptions(coded& c) {
    const std::size_t mean = c.count * 11 / (c.exceptions * 16 + 1);
    unsigned gap_bits = 0;
    while (mean >> (gap_bits + 1) != 0) ++gap_bits;
    std::size_t index = 0;
    for (std::size_t i = 0; i < c.exceptions; ++i, ++index) {
      std::size_t zeros = 0;
      std::uint64_t low = 0;
      if (!unary(zeros) || !bits(gap_bits, low)) return false;
      index += zeros << gap_bits | low;
      if (index >= c.count) return false;
      if (!unary(zeros)) return false;
      const std::size_t width = frame_.unit == 1 ? 16 : 8 * frame_.unit;
      if (zeros + c.value_bits + 1 >= width) return false;
      if (!bits(static_cast<unsigned>(zeros), low)) return false;
      c.sizes[index] |= (std::uint64_t{1} << zeros | low) << c.value_bits;
    }
    return true;
  }

  std::optional<std::vector<std::byte>> apply() const {
    std::vector<std::byte> out(range_.data, range_.data + range_.size);
    for (std::size_t which = 0; which < classes_.size(); ++which) {
      const coded& c = classes_[which];
      std::size_t done = 0;
      std::size_t skip = c.count == 0 ? 0 : c.gaps[0];
      for (std::size_t at = 0; at < range_.size && done < c.count; at += frame_.unit) {
        std::uint64_t old = 0;
        std::memcpy(&old, range_.data + at, frame_.unit);
        if (class_of(old) != which) continue;
        if (skip > 0) {
          --skip;
          continue;
        }
        const std::uint64_t value = step(old, c.sizes[done], c.down[done]);
        std::memcpy(&out[at], &value, frame_.unit);
        ++done;
        if (done < c.count) skip = c.gaps[done];
      }
      if (done < c.count) return std::nullopt;
    }
    return out;
  }

  std::size_t class_of(std::uint64_t old) const {
    const unsigned width = 8 * frame_.unit;
    const std::uint64_t ones = width == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << width) - 1;
    const std::uint64_t key = ((old << 1) & ones) >> (width - 8);
    std::size_t c = 0;
    for (const auto threshold : thresholds_) c += key >= threshold ? 1 : 0;
    return c;
  }

  std::uint64_t step(std::uint64_t old, std::uint64_t size_less_one, bool down) const {
    if (order_ == 2) {
      if (size_less_one >= 16) return old ^ ((size_less_one - 16) & 255);
      const unsigned shift = (size_less_one & 1) != 0 ? 4 : 0;
      const std::uint64_t size = size_less_one / 2 + 1;
      const std::uint64_t half = (old >> shift) + (down ? 0 - size : size);
      return (old & ~(std::uint64_t{15} << shift)) | (half & 15) << shift;
    }
    const std::uint64_t size = size_less_one + 1;
    if (order_ == 0) return old + (down ? 0 - size : size);
    // Through the order of numbers: negative ones upside down below the others.
    const std::uint64_t sign = std::uint64_t{1} << (8 * frame_.unit - 1);
    const std::uint64_t place = (old & sign) != 0 ? ~old : old | sign;
    const std::uint64_t moved = place + (down ? 0 - size : size);
    return (moved & sign) != 0 ? moved & ~sign : ~moved;
  }

  const frame& frame_;
  const bytes_view range_;
  std::size_t order_ = 0;
  std::vector<std::size_t> thresholds_;
  std::vector<coded> classes_;
  std::size_t at_byte_ = 0;
  std::size_t at_ = 0;  // in bits
  bool failed_ = false;
};

}  // namespace lockstep::kernels
