#include "weights/part_stream.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/coded.hpp"
#include "kernels/frame.hpp"
#include "weights/compressed.hpp"

namespace lockstep {

struct part_stream::decoder {
  virtual ~decoder() = default;
  virtual std::string next(std::span<const std::byte> old, std::span<std::byte> out) = 0;
  virtual std::string finish() = 0;
};

namespace {

using bytes_in = std::span<const std::byte>;
using bytes_out = std::span<std::byte>;

constexpr std::size_t count_bytes = 4;     // of an overwrite's number of changes
constexpr std::size_t position_bytes = 4;  // of each change, beside its one byte of value

std::uint32_t little_endian32(bytes_in bytes) {
  std::uint32_t value = 0;
  for (std::size_t i = 4; i-- > 0;) value = value << 8 | std::to_integer<std::uint32_t>(bytes[i]);
  return value;
}

class xored final : public part_stream::decoder {
 public:
  xored(byte_source compressed, int window_log_max)
      : frame_(std::move(compressed), window_log_max) {}

  std::string next(bytes_in old, bytes_out out) override {
    constexpr std::size_t piece_bytes = 128 << 10;  // so that it stays in the cache
    change_.resize(std::min(piece_bytes, old.size()));
    for (std::size_t at = 0; at < old.size(); at += piece_bytes) {
      const auto from = old.subspan(at, std::min(piece_bytes, old.size() - at));
      const auto change = bytes_out(change_).first(from.size());
      if (auto problem = frame_.read(change); !problem.empty()) return problem;
      std::transform(from.begin(), from.end(), change.begin(),
                     out.begin() + static_cast<std::ptrdiff_t>(at), std::bit_xor<>());
    }
    return {};
  }

  std::string finish() override { return frame_.finish(); }

 private:
  frame_reader frame_;
  std::vector<std::byte> change_;
};

// The values stand behind all positions, so the frame is read twice at once: by who takes the
// positions, and by who has skipped them.
class overwritten final : public part_stream::decoder {
 public:
  overwritten(byte_source compressed, std::uint64_t tensor_bytes, int window_log_max)
      : tensor_bytes_(tensor_bytes),
        positions_(compressed.twin(), window_log_max),
        values_(std::move(compressed), window_log_max) {}

  std::string next(bytes_in old, bytes_out out) override {
    if (auto problem = begin(); !problem.empty()) return problem;
    if (out.data() != old.data()) std::copy(old.begin(), old.end(), out.begin());
    const auto end = window_ + old.size();
    for (;;) {
      if (at_ == held_) {
        if (auto problem = fetch(); !problem.empty()) return problem;
        if (held_ == 0) break;
      }
      const std::uint64_t position = little_endian32(bytes_in(position_).subspan(4 * at_, 4));
      if (position >= end) break;
      if (position < least_) return "has changes that are not in ascending order";
      out[position - window_] = value_[at_++];
      least_ = position + 1;
    }
    window_ = end;
    return {};
  }

  std::string finish() override {
    if (auto problem = begin(); !problem.empty()) return problem;
    if (at_ == held_)
      if (auto problem = fetch(); !problem.empty()) return problem;
    if (at_ < held_) {
      const std::uint64_t position = little_endian32(bytes_in(position_).subspan(4 * at_, 4));
      return position < tensor_bytes_ ? "has changes that are not in ascending order"
                                      : fmt::format("changes byte {}, past the end", position);
    }
    auto problem = values_.finish();
    return problem.empty() ? problem : fmt::format("has {} changes, and {}", count_, problem);
  }

 private:
  static constexpr std::size_t batch = 16384;

  std::string begin() {
    if (begun_) return {};
    begun_ = true;
    std::array<std::byte, count_bytes> count;
    if (auto problem = positions_.read(count); !problem.empty())
      return "has no count of changes: " + problem;
    count_ = left_ = little_endian32(count);
    if (count_ > tensor_bytes_)
      return fmt::format("has {} changes, more than the tensor has bytes", count_);
    auto problem = values_.skip(count_bytes + position_bytes * std::uint64_t{count_});
    return problem.empty() ? problem : fmt::format("has {} changes, but {}", count_, problem);
  }

  // The next positions and their values; none if there are no more.
  std::string fetch() {
    at_ = 0;
    held_ = static_cast<std::size_t>(std::min<std::uint64_t>(left_, batch));
    left_ -= held_;
    position_.resize(held_ * position_bytes);
    value_.resize(held_);
    auto problem = positions_.read(position_);
    if (problem.empty()) problem = values_.read(value_);
    return problem;
  }

  std::uint64_t tensor_bytes_;
  frame_reader positions_;
  frame_reader values_;
  std::vector<std::byte> position_;
  std::vector<std::byte> value_;
  bool begun_ = false;
  std::uint64_t count_ = 0;
  std::uint64_t left_ = 0;  // not fetched yet
  std::size_t at_ = 0;      // of those that are held
  std::size_t held_ = 0;
  std::uint64_t least_ = 0;   // position that may follow
  std::uint64_t window_ = 0;  // where the next window begins
};

// Frames of the wire, the tensor being number 0 in each: at most one for each window.
class coded final : public part_stream::decoder {
 public:
  coded(byte_source frames, std::uint64_t tensor_bytes, std::uint32_t unit)
      : rest_(std::move(frames)), unit_(unit), shape_{{{nullptr, tensor_bytes}, unit}} {
    static_assert(part_stream::window_bytes == kernels::frame_span_bytes_max);
  }

  std::string next(bytes_in old, bytes_out out) override {
    if (out.data() != old.data()) std::copy(old.begin(), old.end(), out.begin());
    if (auto problem = look(); !problem.empty()) return problem;
    const auto at = window_;
    window_ += old.size();
    if (!frame_ || frame_->offset > at) return {};
    if (frame_->offset < at) return "has frames that are not in ascending order";
    auto f = *frame_;
    frame_.reset();
    f.offset = 0;  // in a tensor that is this window alone
    staged_.clear();
    kernels::staged_digest unused;
    const kernels::tensor_view base{{out.data(), out.size()}, unit_};
    auto status = stager_.stage(key(), f, base, staged_, unused);
    std::size_t length = 0;
    if (status == kernels::frame_status::ok)
      status = kernels::parse_frame({staged_.data(), staged_.size()}, {base}, f, length);
    if (status != kernels::frame_status::ok)
      return fmt::format("has a frame that is not one of this base: {}", to_string(status));
    kernels::apply_frame(f, {{out.data(), out.size()}, unit_});
    return {};
  }

  std::string finish() override {
    if (auto problem = look(); !problem.empty()) return problem;
    if (frame_) return "has frames that are not in ascending order";
    return {};
  }

 private:
  static const kernels::digest_key& key() {
    static const kernels::digest_key one(0);  // the sums are not used
    return one;
  }

  std::string look() {
    if (frame_ || rest_.left() == 0) return {};
    std::size_t length = 0;
    frame_.emplace();
    auto status = parse(kernels::frame_header_bytes, length);
    if (status == kernels::frame_status::truncated)
      status = parse(kernels::frame_bytes_max, length);
    if (status != kernels::frame_status::ok)
      return fmt::format("has a frame that cannot be read: {}", to_string(status));
    rest_.skip(length);
    return {};
  }

  kernels::frame_status parse(std::size_t least, std::size_t& length) {
    const auto next = rest_.peek(least);
    return kernels::parse_frame({next.data(), next.size()}, shape_, *frame_, length);
  }

  byte_source rest_;
  std::uint32_t unit_;
  std::vector<kernels::tensor_view> shape_;
  kernels::frame_stager stager_;
  std::optional<kernels::frame> frame_;
  std::vector<std::byte> staged_;
  std::uint64_t window_ = 0;
};

}  // namespace

part_stream::part_stream(published_encoding encoding, byte_source compressed,
                         std::uint64_t tensor_bytes, std::uint32_t unit, int window_log_max) {
  switch (encoding) {
    case published_encoding::xored:
      decoder_ = std::make_unique<xored>(std::move(compressed), window_log_max);
      break;
    case published_encoding::overwrite:
      decoder_ = std::make_unique<overwritten>(std::move(compressed), tensor_bytes, window_log_max);
      break;
    case published_encoding::coded:
      decoder_ = std::make_unique<coded>(std::move(compressed), tensor_bytes, unit);
      break;
  }
}

part_stream::part_stream(part_stream&&) noexcept = default;
part_stream& part_stream::operator=(part_stream&&) noexcept = default;
part_stream::~part_stream() = default;

std::string part_stream::next(std::span<const std::byte> old, std::span<std::byte> out) {
  return decoder_->next(old, out);
}

std::string part_stream::finish() {
  return decoder_->finish();
}

}  // namespace lockstep
