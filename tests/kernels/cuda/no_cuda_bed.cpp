// Stands in for cuda_bed.cpp where the CUDA library is not built.
#include "tests/kernels/cuda/beds.hpp"

namespace lockstep::kernels::cuda {

std::vector<bed> cuda_beds() {
  return {};
}

}  // namespace lockstep::kernels::cuda
