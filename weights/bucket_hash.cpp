#include "weights/bucket_hash.hpp"

#include <openssl/sha.h>

#include <array>
#include <new>

#include "kernels/hash.hpp"

namespace lockstep {

hash128 hash_of(std::span<const std::byte> bytes, bucket_hash how) {
  if (how == bucket_hash::xxh3) {
    const auto hash = kernels::hash_bytes({bytes.data(), bytes.size()});
    return {hash.hi, hash.lo};
  }
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  // Asks a provider of OpenSSL's, and memory.
  if (::SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest.data()) ==
      nullptr)
    throw std::bad_alloc();
  const auto word = [&](std::size_t at) {
    std::uint64_t out = 0;
    for (std::size_t i = 0; i < 8; ++i) out = out << 8 | digest[at + i];
    return out;
  };
  return {word(0), word(8)};
}

hash128 hash_of(const payload& bucket, bucket_hash how) {
  return hash_of(std::span(bucket.data(), bucket.size()), how);
}

hash128 hash_like(const hash128& announced, const payload& bucket) {
  const auto quick = hash_of(bucket);
  return quick == announced ? quick : hash_of(bucket, bucket_hash::sha256);
}

}  // namespace lockstep
