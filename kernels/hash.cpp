#include "kernels/hash.hpp"

#include <xxhash.h>

namespace lockstep::kernels {

hash_value hash_bytes(bytes_view bytes) noexcept {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data, bytes.size);
  return {hash.high64, hash.low64};
}

}  // namespace lockstep::kernels
