#include <array>
#include <stdexcept>

#include "kernels/coded_loops.hpp"
#include "kernels/coded_table.hpp"
#include "kernels/frame_layout.hpp"
#include "kernels/inner_loops.hpp"
#include "kernels/scratch.hpp"

namespace lockstep::kernels {
namespace {

/// How gaps are written in the fewest bits.
struct gap_code {
  std::uint8_t low_bits;
  std::uint64_t unary_zeros;  ///< of all of them
};

/// `sum`: of the gaps.
gap_code choose_gap_code(const std::uint32_t* gaps, std::uint32_t count,
                         std::uint64_t sum) noexcept {
  // Near ln 2 times the mean, for gaps that are memoryless. Then the best of three.
  const std::uint64_t middle = sum * 11 / (std::uint64_t{count} * 16);
  unsigned first = 0;
  while (middle >> (first + 1) != 0) ++first;
  first = first == 0 ? 0 : std::min<unsigned>(first - 1, gap_bits_max - 2);
  std::uint64_t unary[3] = {};
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t high = gaps[i] >> first;
    unary[0] += high;
    unary[1] += high >> 1;
    unary[2] += high >> 2;
  }
  unsigned best = 0;
  for (unsigned i = 1; i < 3; ++i)
    if (unary[i] + std::uint64_t{count} * i < unary[best] + std::uint64_t{count} * best) best = i;
  return {static_cast<std::uint8_t>(first + best), unary[best]};
}

/// Sets how the steps of a class are written.
template <class Step>
void choose_value_bits(const Step* steps, unsigned unit, coded_class& c) noexcept {
  std::uint32_t large = 0;
  for (std::uint32_t i = 0; i < c.count; ++i) large += steps[i] > 1;
  c.value_bits = 0;
  c.exceptions = large;
  if (large < c.count / 8) return;  // a bit for each would be more
  std::array<std::uint32_t, 65> of_width{};
  for (std::uint32_t i = 0; i < c.count; ++i) {
    const std::uint64_t size = std::uint64_t{steps[i]} >> 1;
    ++of_width[size == 0 ? 0 : static_cast<std::size_t>(64 - __builtin_clzll(size))];
  }
  const unsigned bits_max = std::min<unsigned>(value_bits_max, 8 * unit - 1);
  std::uint64_t least = ~std::uint64_t{0};
  for (unsigned bits = 0; bits <= bits_max; ++bits) {
    std::uint64_t cost = std::uint64_t{c.count} * bits;
    std::uint32_t exceptions = 0;
    for (unsigned width = bits + 1; width < of_width.size(); ++width) {
      exceptions += of_width[width];
      cost += std::uint64_t{of_width[width]} * (2 * (width - bits) - 1);
    }
    if (exceptions != 0)
      cost += std::uint64_t{exceptions} * (exception_gap_bits(c.count, exceptions) + 2u);
    if (cost >= least) continue;
    least = cost;
    c.value_bits = static_cast<std::uint8_t>(bits);
    c.exceptions = exceptions;
  }
}

class_code code_of(const coded_class& c) noexcept {
  return {c.count, c.exceptions, c.gap_bits, c.value_bits,
          exception_gap_bits(c.count, c.exceptions)};
}

std::size_t bytes_in(const bit_sink& sink, const std::byte* start) noexcept {
  return static_cast<std::size_t>(sink.at - start) + (sink.count != 0);
}

}  // namespace

struct delta_encoder::memory {
  chunk_classes classes;
  std::array<scratch, class_count_max> gaps;
  std::array<scratch, class_count_max> steps;
  scratch bits;
  // The last chunk of a tensor, filled up with zeros to whole blocks.
  std::array<std::byte, chunk_bytes> old_end;
  std::array<std::byte, chunk_bytes> target_end;
};

namespace {

/// What is looked at before its changes are worked on: so little that memory which was asked for
/// meanwhile is still on its way when the next piece begins.
constexpr std::size_t piece_bytes = 2048;
static_assert(piece_bytes <= chunk_bytes && piece_bytes % (8 * block_elements) == 0);

/// One range on its way to a coded payload.
template <class T, class Memory>
class range_encoder {
 public:
  range_encoder(Memory& memory, const class_model& model, bytes_view base, bytes_view target)
      : memory_(memory), model_(model), base_(base), target_(target) {
    table_.model = model;
  }

  /// @returns the number of changes.
  std::uint32_t find() {
    memory_.classes.total = {};
    const class_table table(model_);
    for (std::size_t at = 0; at < base_.size; at += piece_bytes) {
      const std::size_t size = std::min(piece_bytes, base_.size - at);
      const std::byte* old = base_.data + at;
      const std::byte* target = target_.data + at;
      if (size % (block_elements * sizeof(T)) != 0) {
        old = padded(old, size, memory_.old_end.data());
        target = padded(target, size, memory_.target_end.data());
      }
      if (at % chunk_bytes == 0) make_room();
      loops_.classify(table, old, target, size / sizeof(T), memory_.classes);
      loops_.collect(table, old, target, blocks_in(size), memory_.classes, found_);
    }
    std::uint32_t count = 0;
    for (const auto& c : found_.of) count += c.count;
    return count;
  }

  /// Appends the payload unless it would take `limit` bytes or more. @returns whether it did.
  bool write(std::size_t limit, std::vector<std::byte>& out) {
    std::uint64_t variable_bits = 0;
    for (std::size_t i = 0; i < model_.classes; ++i) {
      coded_class& c = table_.classes[i];
      c = {};
      c.count = found_.of[i].count;
      if (c.count == 0) continue;
      const gap_code gaps =
          choose_gap_code(found_.of[i].gaps, c.count, found_.of[i].next - c.count);
      c.gap_bits = gaps.low_bits;
      choose_value_bits(found_.of[i].steps, sizeof(T), c);
      variable_bits += bits_max(c, gaps.unary_zeros);
    }
    const std::size_t start = out.size();
    write_table(table_, out);
    const std::uint64_t fixed_bytes = (table_.fixed_bits() + 7) / 8;
    if (out.size() - start + fixed_bytes >= limit) return undo(start, out);
    std::byte* const bits =
        memory_.bits.template room_for<std::byte>(fixed_bytes + variable_bits / 8 + 2 * bits_slack);
    const std::size_t size = write_bits(bits);
    if (out.size() - start + size >= limit) return undo(start, out);
    out.insert(out.end(), bits, bits + size);
    return true;
  }

 private:
  static std::size_t blocks_in(std::size_t size) noexcept {
    return (size / sizeof(T) + block_elements - 1) / block_elements;
  }

  static bool undo(std::size_t start, std::vector<std::byte>& out) {
    out.resize(start);
    return false;
  }

  static const std::byte* padded(const std::byte* from, std::size_t size, std::byte* to) noexcept {
    constexpr std::size_t block_size = block_elements * sizeof(T);
    std::memcpy(to, from, size);
    std::memset(to + size, 0, block_size - size % block_size);
    return to;
  }

  void make_room() {
    for (std::size_t i = 0; i < model_.classes; ++i) {
      const std::size_t room = found_.of[i].count + chunk_elements<T>;
      found_.of[i].gaps = memory_.gaps[i].template room_for<std::uint32_t>(room);
      found_.of[i].steps = memory_.steps[i].template room_for<step_code<T>>(room);
    }
  }

  /// An upper bound of a class's bits of variable width.
  static std::uint64_t bits_max(const coded_class& c, std::uint64_t unary_zeros) noexcept {
    const std::uint64_t exception_bits =
        2 + exception_gap_bits(c.count, c.exceptions) + 2 * 8 * sizeof(step_code<T>);
    return unary_zeros + 2 * std::uint64_t{c.count} + c.exceptions * exception_bits;
  }

  std::size_t write_bits(std::byte* to) {
    bit_sink sink{to};
    for (std::size_t i = 0; i < model_.classes; ++i)
      loops_.put_fields(code_of(table_.classes[i]), found_.of[i].gaps, found_.of[i].steps, sink);
    const std::size_t fixed_bytes = bytes_in(sink, to);
    sink = {to + fixed_bytes};
    for (std::size_t i = 0; i < model_.classes; ++i)
      loops_.put_unary(code_of(table_.classes[i]), found_.of[i].gaps, sink);
    for (std::size_t i = 0; i < model_.classes; ++i)
      if (table_.classes[i].exceptions != 0)
        loops_.put_exceptions(code_of(table_.classes[i]), found_.of[i].steps, sink);
    return bytes_in(sink, to);
  }

  Memory& memory_;
  const class_model& model_;
  const bytes_view base_;
  const bytes_view target_;
  const coded_loops<T>& loops_ = active_coded_loops().of<T>();
  found_changes<T> found_;
  coded_table table_;
};

void require_model(const class_model& model, std::uint32_t unit) {
  bool good = model.classes >= 1 && model.classes <= class_count_max &&
              model.order <= step_order::nibbles &&
              (model.order != step_order::nibbles || unit == 1);
  for (std::size_t i = 0; good && i + 1 < model.classes; ++i)
    good = model.thresholds[i] > (i == 0 ? 0 : model.thresholds[i - 1]);
  if (!good) throw std::invalid_argument("frame: not a model of the tensor's classes");
}

}  // namespace

delta_encoder::delta_encoder() : memory_(std::make_unique<memory>()) {}
delta_encoder::~delta_encoder() = default;
delta_encoder::delta_encoder(delta_encoder&&) noexcept = default;
delta_encoder& delta_encoder::operator=(delta_encoder&&) noexcept = default;

std::uint64_t delta_encoder::encode(std::uint32_t tensor, tensor_view base, tensor_view target,
                                    std::size_t offset, const class_model& model,
                                    encoding_choice choice, std::vector<std::byte>& out) {
  if (choice == encoding_choice::raw || target.bytes.size == 0)
    return encode_delta(tensor, base, target, offset, out);
  const std::size_t start = out.size();
  if (choice == encoding_choice::full) {
    const auto count = encode_delta(tensor, base, target, offset, out);
    out.resize(start);
    if (count != 0) encode_full(tensor, target, offset, out);
    return count;
  }
  if (base.bytes.size != target.bytes.size || base.unit != target.unit)
    throw std::invalid_argument("frame: base and target differ in size or unit");
  require_range(target, offset);
  require_model(model, target.unit);

  frame f;
  f.encoding = frame_encoding::coded;
  f.unit = target.unit;
  f.tensor = tensor;
  f.offset = offset;
  f.range_bytes = range_bytes_at(target.bytes.size, offset);
  const bytes_view from{base.bytes.data + offset, f.range_bytes};
  const bytes_view to{target.bytes.data + offset, f.range_bytes};
  bool fits = false;
  with_unit(target.unit, [&](auto zero) {
    range_encoder<decltype(zero), memory> range(*memory_, model, from, to);
    f.count = range.find();
    if (f.count == 0) return;
    const std::uint64_t raw_bytes = std::uint64_t{f.count} * (gap_bytes + f.unit);
    out.resize(start + frame_header_bytes);
    fits = range.write(std::min<std::uint64_t>(f.range_bytes, raw_bytes), out);
  });
  if (f.count == 0) return 0;
  if (fits) {
    write_header(out, start, f);
    return f.count;
  }
  out.resize(start);
  return encode_delta(tensor, base, target, offset, out);
}

}  // namespace lockstep::kernels
