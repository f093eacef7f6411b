#include "kernels/hash.hpp"

#include <catch2/catch.hpp>
#include <cstring>

using namespace lockstep::kernels;

TEST_CASE("the hash is the canonical XXH3-128") {
  // From the XXH3 specification's reference tool: `printf '' | xxh128sum` and `printf abc |
  // xxh128sum`.
  CHECK(hash_bytes({}) == hash_value{0x99aa06d3014798d8, 0x6001c324468d497f});
  const char* text = "abc";
  const auto* data = reinterpret_cast<const std::byte*>(text);
  CHECK(hash_bytes({data, 3}) == hash_value{0x06b05ab6733a6185, 0x78af5f94892f3950});
  CHECK(hash_bytes({data, 3}) != hash_bytes({data, 2}));
}
