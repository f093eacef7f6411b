#include "weights/published_encode.hpp"

#include <algorithm>
#include <optional>

#include "kernels/coded.hpp"
#include "weights/byte_changes.hpp"
#include "weights/compressed.hpp"
#include "weights/part_stream.hpp"
#include "weights/sparse_frame.hpp"
#include "weights/state_digest.hpp"

namespace lockstep {

namespace {

using bytes_in = std::span<const std::byte>;

using spill_to = std::function<void(std::uint64_t)>;

constexpr std::size_t window_bytes = part_stream::window_bytes;
// For less it is not worth to try both ways of compressing.
constexpr std::size_t sparse_bytes_min = 64 << 10;

// Calls `visit(offset, old, fresh)` for each window.
template <class Visit>
void for_each_window(bytes_in base, bytes_in target, Visit visit) {
  for (std::size_t at = 0; at < target.size(); at += window_bytes) {
    const auto size = std::min(window_bytes, target.size() - at);
    visit(at, base.subspan(at, size), target.subspan(at, size));
  }
}

void append_little_endian32(std::vector<std::byte>& out, std::size_t value) {
  for (int i = 0; i < 4; ++i) out.push_back(static_cast<std::byte>(value >> (8 * i)));
}

class hashing {
 public:
  hashing(published_checksum format, bool with_base) : checksum_(format) {
    if (format != published_checksum::xxh3_128) xxh3_.emplace(published_checksum::xxh3_128);
    if (with_base) base_.emplace(published_checksum::xxh3_128);
  }
  void update(bytes_in old, bytes_in fresh) {
    if (base_) base_->update(old);
    checksum_.update(fresh);
    if (xxh3_) xxh3_->update(fresh);
  }
  part_digests digests() const {
    auto checksum = checksum_.digest();
    return {checksum, xxh3_ ? xxh3_->digest() : checksum, base_ ? base_->digest() : std::string()};
  }

 private:
  published_hasher checksum_;
  std::optional<published_hasher> xxh3_;
  std::optional<published_hasher> base_;
};

void encode_xored(bytes_in base, bytes_in target, hashing& hash, std::vector<std::byte>& out,
                  const spill_to& spill) {
  static_assert(window_bytes <= sparse_frame_writer::piece_bytes_max);
  std::optional<sparse_frame_writer> sparse;
  std::optional<frame_writer> frame;
  std::vector<std::byte> change(std::min(window_bytes, target.size()));
  for_each_window(base, target, [&](std::size_t at, bytes_in old, bytes_in fresh) {
    hash.update(old, fresh);
    std::transform(old.begin(), old.end(), fresh.begin(), change.begin(),
                   [](std::byte a, std::byte b) { return a ^ b; });
    const auto piece = std::span(change).first(fresh.size());
    if (at == 0 && target.size() >= sparse_bytes_min && sparse_frame_writer::pays(piece))
      sparse.emplace(target.size());
    if (!sparse && !frame) frame.emplace(target.size());
    sparse ? sparse->write(piece, false, out) : frame->write(piece, false, out);
    spill(at + fresh.size());
  });
  if (sparse) return sparse->write({}, true, out);
  if (!frame) frame.emplace(0);  // no window at all
  frame->write({}, true, out);
}

// Three passes: how many changes, their positions, their values.
void encode_overwritten(bytes_in base, bytes_in target, hashing& hash, std::vector<std::byte>& out,
                        const spill_to& spill) {
  std::size_t count = 0;
  for_each_window(base, target, [&](std::size_t at, bytes_in old, bytes_in fresh) {
    hash.update(old, fresh);
    for_each_difference(old, fresh, [&](std::size_t) { ++count; });
    spill(at + fresh.size());
  });
  frame_writer frame(4 + 5 * std::uint64_t{count});
  std::vector<std::byte> piece;
  append_little_endian32(piece, count);
  for_each_window(base, target, [&](std::size_t at, bytes_in old, bytes_in fresh) {
    for_each_difference(old, fresh, [&](std::size_t i) { append_little_endian32(piece, at + i); });
    frame.write(piece, false, out);
    piece.clear();
    spill(at + fresh.size());
  });
  for_each_window(base, target, [&](std::size_t at, bytes_in old, bytes_in fresh) {
    for_each_difference(old, fresh, [&](std::size_t i) { piece.push_back(fresh[i]); });
    frame.write(piece, false, out);
    piece.clear();
    spill(at + fresh.size());
  });
  frame.write(piece, true, out);  // an empty tensor has its count yet to write
}

void encode_coded(std::uint32_t unit, bytes_in base, bytes_in target, hashing& hash,
                  std::vector<std::byte>& out, const spill_to& spill) {
  const kernels::tensor_view from{{base.data(), base.size()}, unit};
  const kernels::tensor_view to{{target.data(), target.size()}, unit};
  const auto model = kernels::plan_classes(from, to);
  kernels::delta_encoder encoder;
  for_each_window(base, target, [&](std::size_t at, bytes_in old, bytes_in fresh) {
    hash.update(old, fresh);
    encoder.encode(0, from, to, at, model, kernels::encoding_choice::coded, out);
    spill(at + fresh.size());
  });
}

}  // namespace

part_digests encode_part(published_encoding encoding, published_checksum checksum,
                         std::uint32_t unit, std::span<const std::byte> base,
                         std::span<const std::byte> target, std::vector<std::byte>& out,
                         const spill_to& spill, bool with_base) {
  hashing hash(checksum, with_base);
  switch (encoding) {
    case published_encoding::xored:
      encode_xored(base, target, hash, out, spill);
      break;
    case published_encoding::overwrite:
      encode_overwritten(base, target, hash, out, spill);
      break;
    case published_encoding::coded:
      encode_coded(unit, base, target, hash, out, spill);
      break;
  }
  return hash.digests();
}

}  // namespace lockstep
