#include "kernels/coded_table.hpp"

#include "kernels/inner_loops.hpp"

namespace lockstep::kernels {
namespace {

// A class's first byte: low bits of a gap, and what follows.
constexpr std::uint8_t gap_bits_mask = 0x1f;
constexpr std::uint8_t has_value_bits = 0x20;
constexpr std::uint8_t has_exceptions = 0x40;

void put(std::vector<std::byte>& out, std::uint32_t byte) {
  out.push_back(static_cast<std::byte>(byte));
}

void put_number(std::vector<std::byte>& out, std::uint32_t number) {
  for (; number >= 0x80; number >>= 7) put(out, (number & 0x7f) | 0x80);
  put(out, number);
}

/// Reads from the front of a payload; after a failure it only fails.
class reader {
 public:
  explicit reader(bytes_view from) noexcept : from_(from) {}

  std::uint8_t byte() noexcept {
    if (at_ >= from_.size) {
      good_ = false;
      return 0;
    }
    return std::to_integer<std::uint8_t>(from_.data[at_++]);
  }

  /// 7 bits a byte, at most three bytes, the last not zero unless it is the only one.
  std::uint32_t number() noexcept {
    std::uint32_t value = 0;
    for (unsigned shift = 0; shift < 21; shift += 7) {
      const std::uint32_t next = byte();
      value |= (next & 0x7f) << shift;
      if (next >= 0x80) continue;
      if (next == 0 && shift != 0) good_ = false;
      return value;
    }
    good_ = false;
    return 0;
  }

  bool good() const noexcept { return good_; }
  bytes_view rest() const noexcept { return {from_.data + at_, from_.size - at_}; }

 private:
  bytes_view from_;
  std::size_t at_ = 0;
  bool good_ = true;
};

// The first byte of all: how many classes there are, how steps go, and how thresholds are written.
constexpr std::uint8_t classes_mask = 0x07;
constexpr unsigned order_at = 3;
constexpr std::uint8_t order_mask = 0x18;
constexpr std::uint8_t has_far_thresholds = 0x20;

/// Whether some threshold is too far from the one before to say so in 4 bits.
bool is_far(const class_model& model) noexcept {
  for (std::size_t i = 1; i + 1 < model.classes; ++i)
    if (model.thresholds[i] - model.thresholds[i - 1] > 16) return true;
  return false;
}

bool read_thresholds(reader& in, bool far, class_model& model) noexcept {
  const std::size_t count = model.classes - 1u;
  unsigned pair = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (i == 0 || far) {
      model.thresholds[i] = in.byte();
      if (model.thresholds[i] <= (i == 0 ? 0 : model.thresholds[i - 1])) return false;
      continue;
    }
    pair = i % 2 != 0 ? in.byte() : pair >> 4;
    const unsigned threshold = model.thresholds[i - 1] + (pair & 15) + 1;
    if (threshold > 255) return false;
    model.thresholds[i] = static_cast<std::uint8_t>(threshold);
  }
  const bool half_left = !far && count > 1 && count % 2 == 0;
  return (!half_left || pair < 16) && far == is_far(model);
}

bool read_model(reader& in, std::uint32_t unit, class_model& model) noexcept {
  const std::uint8_t first = in.byte();
  if ((first & ~(classes_mask | order_mask | has_far_thresholds)) != 0) return false;
  model.classes = static_cast<std::uint8_t>((first & classes_mask) + 1);
  model.order = static_cast<step_order>((first & order_mask) >> order_at);
  if (model.order > step_order::nibbles) return false;
  if (model.order == step_order::nibbles && unit != 1) return false;
  return read_thresholds(in, (first & has_far_thresholds) != 0, model) && in.good();
}

bool read_class(reader& in, std::uint32_t unit, coded_class& c) noexcept {
  const std::uint8_t first = in.byte();
  if ((first & ~(gap_bits_mask | has_value_bits | has_exceptions)) != 0) return false;
  c.gap_bits = first & gap_bits_mask;
  if ((first & has_value_bits) != 0) {
    c.value_bits = in.byte();
    if (c.value_bits == 0) return false;
  }
  if ((first & has_exceptions) != 0) {
    c.exceptions = in.number();
    if (c.exceptions == 0) return false;
  }
  return in.good() && c.gap_bits <= gap_bits_max && c.value_bits <= value_bits_max &&
         c.value_bits < 8 * unit && c.exceptions <= c.count;
}

}  // namespace

void write_table(const coded_table& table, std::vector<std::byte>& out) {
  const class_model& model = table.model;
  const bool far = is_far(model);
  put(out, (model.classes - 1u) | static_cast<std::uint32_t>(model.order) << order_at |
               (far ? has_far_thresholds : 0u));
  for (std::size_t i = 0; i + 1 < model.classes; ++i) {
    if (i == 0 || far) {
      put(out, model.thresholds[i]);
      continue;
    }
    const unsigned distance = model.thresholds[i] - model.thresholds[i - 1] - 1u;
    if (i % 2 != 0)
      put(out, distance);
    else
      out.back() |= static_cast<std::byte>(distance << 4);
  }
  for (std::size_t i = 0; i < model.classes; ++i) {
    const coded_class& c = table.classes[i];
    if (i + 1 < model.classes) put_number(out, c.count);  // the last follows from the frame's
    if (c.count == 0) continue;
    put(out, c.gap_bits | (c.value_bits != 0 ? has_value_bits : 0u) |
                 (c.exceptions != 0 ? has_exceptions : 0u));
    if (c.value_bits != 0) put(out, c.value_bits);
    if (c.exceptions != 0) put_number(out, c.exceptions);
  }
}

frame_status read_table(const frame& f, coded_table& table, bytes_view& bits) noexcept {
  reader in(f.payload);
  if (!read_model(in, f.unit, table.model)) return frame_status::bad_table;
  std::uint32_t left = f.count;
  for (std::size_t i = 0; i < table.model.classes; ++i) {
    coded_class& c = table.classes[i];
    c = {};
    c.count = i + 1 < table.model.classes ? in.number() : left;
    if (!in.good()) return frame_status::bad_table;
    if (c.count > left) return frame_status::bad_count;
    left -= c.count;
    if (c.count != 0 && !read_class(in, f.unit, c)) return frame_status::bad_table;
  }
  bits = in.rest();
  // Each change takes at least one bit more, of the variable part.
  const std::uint64_t least = (table.fixed_bits() + 7) / 8 + (std::uint64_t{f.count} + 7) / 8;
  return least <= bits.size ? frame_status::ok : frame_status::bad_size;
}

}  // namespace lockstep::kernels
