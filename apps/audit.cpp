#include "apps/audit.hpp"

#include <algorithm>

#include "kernels/hash.hpp"

namespace lockstep {

std::vector<hash128> tensor_hashes(const layout& shape, const tensor_reader& tensors) {
  std::vector<hash128> out;
  for (std::size_t i = 0; i < shape.count(); ++i) {
    const auto bytes = tensors(i);
    const auto hash = kernels::hash_bytes({bytes.data(), bytes.size()});
    out.push_back({hash.hi, hash.lo});
  }
  return out;
}

std::optional<std::size_t> first_difference(const std::vector<hash128>& a,
                                            const std::vector<hash128>& b) {
  const auto [at, other] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  if (at == a.end() && other == b.end()) return std::nullopt;
  return static_cast<std::size_t>(at - a.begin());
}

}  // namespace lockstep
