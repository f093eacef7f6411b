// Stands in for what Highway compiles, on a bare machine: there is nothing but plain C++.
#include "kernels/coded_loops.hpp"
#include "kernels/inner_loops.hpp"

namespace lockstep::kernels {

std::size_t vector_loops(const inner_loops**) noexcept {
  return 0;
}

const all_coded_loops& vector_coded_loops(implementation) noexcept {
  return portable_coded_loops();
}

}  // namespace lockstep::kernels
