// Decides what is remembered of how weights came to be what they are, and how somebody who holds an
// earlier state is brought up without all that lies between.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "weights/bucket_codec.hpp"

namespace lockstep {

/// Which elements changed from one state of the weights to the next: no values, only where.
struct change_marks {
  struct range {
    std::uint32_t tensor = 0;
    bool bitmap = false;       ///< a bit for each element; else the gaps between changes
    std::uint64_t offset = 0;  ///< first tensor byte
    std::size_t first = 0;     ///< where its bytes begin in `bytes`
    std::size_t end = 0;
  };
  std::vector<range> ranges;  ///< ascending by tensor and offset
  std::vector<std::byte> bytes;

  std::uint64_t size() const noexcept { return bytes.size() + ranges.size() * sizeof(range); }
};

/// What `buckets`, which have passed `check_buckets`, overwrite in `tensors`. Throws
/// std::bad_alloc.
change_marks marks_of(std::span<const payload> buckets, const tensor_views& tensors);

/// The last steps of some weights. A state that they had is brought up to the present one by one
/// merged delta: all elements that changed since, as they are now. It holds no values of its own,
/// so it costs about a byte for each change. What is merged overwrites at least what differs, so it
/// leads to the present also from every state between (docs/protocol.md, "Catch-up").
///
/// Not thread-safe.
class change_history {
 public:
  /// `bytes_max`: of all that is remembered; 0: nothing is.
  explicit change_history(std::uint64_t bytes_max = 0) : bytes_max_(bytes_max) {}

  /// False: nothing ever is.
  bool remembers() const noexcept { return bytes_max_ != 0; }

  /// The weights have become what they are now in a way that is not known.
  void forget() noexcept;

  /// The weights were `left` and have become what they are now by a step with these marks. Forgets
  /// the oldest where there is no room, and everything where there is no memory.
  void record(const digest& left, change_marks marks) noexcept;

  /// What the weights were before each step that is remembered, the latest last.
  std::vector<digest> states() const;

  /// What leads from each of the last `steps` states (1 or more) to `now`, whose tensors the layout
  /// is of; what changed of tensors that are emptied there is left out. Nothing if not so many are
  /// remembered, or if it takes more than `bytes_max`. Throws
  /// std::bad_alloc.
  std::optional<encoded_delta> merged(std::size_t steps, const layout& shape,
                                      const tensor_views& now, const bucket_form& form,
                                      std::uint64_t bytes_max) const;

  std::size_t size() const noexcept { return steps_.size(); }
  /// Of all that is remembered.
  std::uint64_t bytes() const noexcept { return bytes_; }

  /// More steps than this are not remembered, however small they are.
  static constexpr std::size_t steps_max = 1024;

 private:
  struct step {
    digest left;
    change_marks marks;
  };

  std::uint64_t bytes_max_;
  std::uint64_t bytes_ = 0;
  std::deque<step> steps_;  ///< the latest last
};

}  // namespace lockstep
