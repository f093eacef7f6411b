// Decides how a test counts what is allocated: support/allocations.cpp replaces operator new.
#pragma once

#include <cstddef>

namespace lockstep {

/// Bytes that this thread asked operator new for since the counter was made, whether or not they
/// were given back since.
class allocation_counter {
 public:
  allocation_counter() noexcept;
  std::size_t bytes() const noexcept;

 private:
  std::size_t before_;
};

}  // namespace lockstep
