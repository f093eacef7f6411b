// Decides the wire format of a frame: the change of one tensor over one bounded range of its bytes.
// docs/wire-format.md describes it byte by byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/bytes.hpp"
#include "kernels/digest.hpp"

namespace lockstep::kernels {

/// A frame covers tensor bytes [offset, offset + frame_span_bytes_max), cut off at the tensor's
/// end, where `offset` is a multiple of it. To encode a tensor, step through its offsets.
inline constexpr std::size_t frame_span_bytes_max = std::size_t{1} << 20;
inline constexpr std::size_t frame_header_bytes = 21;
/// No frame is longer than this, on either side.
inline constexpr std::size_t frame_bytes_max = frame_header_bytes + frame_span_bytes_max;

/// How a payload is written. The numbers are on the wire.
enum class frame_encoding : std::uint8_t {
  raw = 1,   ///< per changed element a gap and the new element
  full = 2,  ///< every byte of the range
  coded = 3  ///< positions and steps given the old elements; decodes on its base only
};

/// Why bytes are not a frame. All but `ok` are caused by the peer or by the way to it.
enum class frame_status : std::uint8_t {
  ok = 0,
  truncated,     ///< the bytes end before the header or the payload does
  bad_magic,     ///< not a frame, or of another format version
  bad_checksum,  ///< header or payload were damaged
  bad_encoding,  ///< an encoding this build does not read
  bad_tensor,    ///< no tensor of that index, or not of that unit
  bad_range,     ///< the range is not one of the tensor's
  bad_count,     ///< the number of elements is impossible, or not the payload's
  bad_position,  ///< a change lies outside the range
  bad_size,      ///< the payload is longer or shorter than what it holds
  bad_table,     ///< coded: classes or code parameters that no encoder writes
};

/// The name of a status as it stands in logs; "unknown" for a value that is no enumerator.
const char* to_string(frame_status status) noexcept;

/// A frame's header, and its payload borrowed from the bytes it was read from.
struct frame {
  frame_encoding encoding = frame_encoding::raw;
  std::uint32_t unit = 1;         ///< bytes per element
  std::uint32_t tensor = 0;       ///< index in the layout
  std::uint64_t offset = 0;       ///< first tensor byte of the range
  std::uint32_t range_bytes = 0;  ///< length of the range
  std::uint32_t count = 0;        ///< elements in the payload, at least 1
  bytes_view payload;
};

/// Appends to `out` the frame that leads from `base` to `target` in the range at `offset`, raw or
/// full, whichever is shorter; appends nothing if no element differs. Elements are compared as bit
/// patterns. Both tensors must have the same size and unit; they may overlap.
/// @returns the number of elements that differ.
/// @throws std::invalid_argument if the tensors do not match, or `offset` starts no range.
std::uint64_t encode_delta(std::uint32_t tensor, tensor_view base, tensor_view target,
                           std::size_t offset, std::vector<std::byte>& out);

/// The same where only the range's own bytes of the base are there: `base.size` is the range's
/// length.
/// @throws std::invalid_argument if it is not, or `offset` starts no range.
std::uint64_t encode_delta_range(std::uint32_t tensor, bytes_view base, tensor_view target,
                                 std::size_t offset, std::vector<std::byte>& out);

/// Appends to `out` a full frame of the range at `offset`; nothing if the tensor is empty.
/// @throws std::invalid_argument if `offset` starts no range.
void encode_full(std::uint32_t tensor, tensor_view target, std::size_t offset,
                 std::vector<std::byte>& out);

/// Reads one frame from the front of `data`, which may be followed by others. Accepts only what
/// `encode_*` can have written for a tensor of `tensors` (of which only size and unit are used), so
/// that an accepted frame cannot lead outside its range. Allocates nothing.
/// On `ok`, sets `out` (which borrows from `data`) and `consumed`, the frame's length; otherwise
/// leaves both alone.
frame_status parse_frame(bytes_view data, const std::vector<tensor_view>& tensors, frame& out,
                         std::size_t& consumed) noexcept;

/// By how much applying `f` would change the digest of `live`, the tensor as it is now. Writes
/// nothing. `f` must have been accepted by `parse_frame` for this tensor.
/// @throws std::invalid_argument if `f` does not fit `live`, or is coded (see coded.hpp).
digest_sum change_of(const digest_key& key, const frame& f, tensor_view live);

/// Sets in `marks` the bit of each element that `f` overwrites, the first of the range being bit 0
/// of the first word; others stay as they are.
/// `f` must have been accepted by `parse_frame`.
/// @throws std::invalid_argument if `marks` holds fewer bits than the range has elements, or `f` is
/// coded (see coded.hpp); never writes outside it.
void mark_elements(const frame& f, std::vector<std::uint64_t>& marks);

/// Overwrites the elements that `f` holds. The result is the target whatever mix of base and target
/// `live` was, so an interrupted apply can be repeated.
/// `f` must have been accepted by `parse_frame` for this tensor.
/// @throws std::invalid_argument if `f` does not fit `live`, or is coded (see coded.hpp); never
/// writes outside the frame's range.
void apply_frame(const frame& f, tensor_span live);

}  // namespace lockstep::kernels
