// Decides how kernels keep working memory: raw, grown as needed, never shrunk.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <type_traits>

namespace lockstep::kernels {

/// Room for values without constructors, aligned for any of them. What it holds when it grows, is
/// kept.
class scratch {
 public:
  /// Room for `count` of T. Pointers from earlier calls are no longer valid.
  template <class T>
  T* room_for(std::size_t count) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (count * sizeof(T) > size_) grow(count * sizeof(T));
    return reinterpret_cast<T*>(memory_.get());
  }

 private:
  void grow(std::size_t size) {
    size = std::max(size, 2 * size_);
    // Not make_unique: it would write zeros.
    std::unique_ptr<std::byte[]> larger(new std::byte[size]);
    if (size_ != 0) std::memcpy(larger.get(), memory_.get(), size_);
    memory_ = std::move(larger);
    size_ = size;
  }

  std::unique_ptr<std::byte[]> memory_;
  std::size_t size_ = 0;
};

}  // namespace lockstep::kernels
