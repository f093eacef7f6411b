// Decides on how many threads a pass over all weights runs, and what each of them gets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kernels/bytes.hpp"

namespace lockstep {

/// At most so many threads of this process work on one pass, the calling one included; 0 takes as
/// many as there are cores, which is also how it begins. Thread-safe; holds for passes that begin
/// later.
void set_workers(unsigned count) noexcept;
unsigned workers() noexcept;

/// Calls `work` on this thread, and on up to `most` - 1 others at the same time as far as any are
/// idle, and returns when all calls have. What one of them throws is thrown here, after that.
/// `work` shares out by itself what is to be done: when the first call returns, nothing may be left
/// that nobody has begun.
void on_workers(std::size_t most, const std::function<void()>& work);

/// Calls `work(i)` once for every i below `count`, on this thread and on others, in no order, and
/// returns when all calls have. What one of them throws is thrown here, after that; what was not
/// begun by then is left out. `work` must not come back to this function.
void for_each_index(std::size_t count, const std::function<void(std::size_t)>& work);

/// Bytes [offset, offset + bytes) of a tensor.
struct tensor_part {
  std::uint32_t tensor = 0;
  std::size_t offset = 0;  ///< a multiple of `batches::bytes_max`
  std::size_t bytes = 0;
};

/// All bytes of some tensors, in batches of about the same size: large tensors are split, small
/// ones go together. In the order of the tensors, without gaps; empty tensors are left out.
class batches {
 public:
  static constexpr std::size_t bytes_max = std::size_t{4} << 20;

  explicit batches(const std::vector<kernels::tensor_view>& tensors);

  std::size_t count() const noexcept { return ends_.size(); }
  std::span<const tensor_part> operator[](std::size_t batch) const noexcept {
    const auto begin = batch == 0 ? 0 : ends_[batch - 1];
    return std::span(parts_).subspan(begin, ends_[batch] - begin);
  }

 private:
  std::vector<tensor_part> parts_;
  std::vector<std::size_t> ends_;  ///< index of the part behind each batch
};

}  // namespace lockstep
