// Decides how a test counts what is allocated, and lets allocations fail: support/allocations.cpp
// replaces operator new.
#pragma once

#include <cstddef>

namespace lockstep {

/// Bytes that this thread asked operator new for since the counter was made, whether or not they
/// were given back since.
class allocation_counter {
 public:
  allocation_counter() noexcept;
  std::size_t bytes() const noexcept;
  /// The same of all threads.
  std::size_t bytes_of_all() const noexcept;

 private:
  std::size_t before_;
  std::size_t before_of_all_;
};

/// While it lives the `number`-th allocation from 1 on, by whichever thread, fails as if there were
/// no memory, and if `stays` all later ones do. One at a time.
class failing_allocation {
 public:
  explicit failing_allocation(std::size_t number, bool stays = false) noexcept;
  failing_allocation(const failing_allocation&) = delete;
  failing_allocation& operator=(const failing_allocation&) = delete;
  ~failing_allocation();
  /// Whether there were so many.
  bool struck() const noexcept;
};

}  // namespace lockstep
