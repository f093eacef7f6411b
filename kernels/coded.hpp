// Decides the dense encoding of a change: positions given the class of the old element, values as
// steps. docs/wire-format.md describes it bit by bit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/bytes.hpp"
#include "kernels/digest.hpp"
#include "kernels/frame.hpp"

namespace lockstep::kernels {

inline constexpr std::size_t class_count_max = 8;

/// How a step leads from an old element to a new one; all are exact for every bit pattern. The
/// numbers are on the wire.
enum class step_order : std::uint8_t {
  integer = 0,         ///< two's complement: int8, and floats that do not cross zero
  sign_magnitude = 1,  ///< floats: the next number below +0 is -0
  nibbles = 2          ///< bytes that hold two elements of four bits
};

/// Which old elements are alike. An element's key is the top 8 bits of its pattern without the
/// sign; its class is the number of thresholds that are not above its key.
struct class_model {
  std::uint8_t classes = 1;  ///< 1 to `class_count_max`
  step_order order = step_order::integer;
  std::array<std::uint8_t, class_count_max - 1> thresholds{};  ///< ascending, from 1
};

/// Chooses classes and order for a tensor from samples of both its states; reads at most some
/// hundred KiB of each. The same tensors give the same model on every machine. Any model is
/// correct; a bad one only costs bytes.
/// @throws std::invalid_argument if the tensors do not match, or cannot be framed.
class_model plan_classes(tensor_view base, tensor_view target);

/// What a sender prefers. Whatever it is, a range goes raw or full where that is shorter.
enum class encoding_choice : std::uint8_t {
  coded,  ///< fewest bytes
  raw,    ///< fewest cycles
  full    ///< every byte of a range that changed
};

/// Encodes deltas, coded ones included. Keeps its working memory between calls: about 8 bytes for
/// each change of a range. One for each thread.
class delta_encoder {
 public:
  delta_encoder();
  ~delta_encoder();
  delta_encoder(delta_encoder&&) noexcept;
  delta_encoder& operator=(delta_encoder&&) noexcept;

  /// Appends to `out` the frame that leads from `base` to `target` in the range at `offset`: as
  /// chosen, or raw or full where that is shorter; nothing if no element differs. `model` is of
  /// `plan_classes`.
  /// @returns the number of elements that differ.
  /// @throws std::invalid_argument like kernels::encode_delta.
  std::uint64_t encode(std::uint32_t tensor, tensor_view base, tensor_view target,
                       std::size_t offset, const class_model& model, encoding_choice choice,
                       std::vector<std::byte>& out);

 private:
  struct memory;
  std::unique_ptr<memory> memory_;
};

/// What a frame says of the digest of its range.
struct staged_digest {
  digest_sum base;    ///< the range's part of the live tensor's digest
  digest_sum change;  ///< by how much the frame changes it
};

/// The same under a key; borrowed.
struct keyed_digest {
  const digest_key* key;
  staged_digest sum;
};

/// Turns frames into absorbing ones. A coded frame decodes only against its base: read it while the
/// base is still there, and keep what this makes of it. Keeps its working memory between calls:
/// about 8 bytes for each change of a range. One for each thread.
class frame_stager {
 public:
  static constexpr std::size_t digests_max = 2;

  frame_stager();
  ~frame_stager();
  frame_stager(frame_stager&&) noexcept;
  frame_stager& operator=(frame_stager&&) noexcept;

  /// Reads the range of `f` in `live` once. Appends to `out` a raw or full frame, one that
  /// parse_frame accepts, that makes the target of any mix of base and target; adds to each digest
  /// what the range's elements add up to now, and by how much the frame changes it. Sums over all
  /// ranges (those without a frame by digest_range) are to be compared with the base that the
  /// sender meant: only then is what was staged the target.
  /// `f` must have been accepted by parse_frame for this tensor.
  /// @returns `ok`, or why a coded payload is not one of this base: `out` and the digests are then
  /// what they were.
  /// @throws std::invalid_argument if `f` does not fit `live`, or `count`, of the digests, is above
  /// `digests_max`.
  frame_status stage(keyed_digest* digests, std::size_t count, const frame& f, tensor_view live,
                     std::vector<std::byte>& out);
  /// Under one key.
  frame_status stage(const digest_key& key, const frame& f, tensor_view live,
                     std::vector<std::byte>& out, staged_digest& digest);

 private:
  struct memory;
  std::unique_ptr<memory> memory_;
};

}  // namespace lockstep::kernels
