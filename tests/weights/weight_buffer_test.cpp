#include "weights/weight_buffer.hpp"

#include <algorithm>

#include "test_files.hpp"

using namespace lockstep;
using namespace lockstep::test;

// The address sanitizer ends the program at a huge allocation unless told that it may fail, as it
// may without the sanitizer.
extern "C" const char* __asan_default_options() {
  return "allocator_may_return_null=1";
}

namespace {

const layout mixed({{"a", dtype::u8, {3}},
                    {"b", dtype::f64, {2}},
                    {"empty", dtype::bf16, {0, 5}},
                    {"scalar", dtype::f32, {}},
                    {"z", dtype::u8, {65}}});

}  // namespace

TEST_CASE("tensors in memory are aligned, zero, apart and as long as their layout says") {
  weight_buffer weights(mixed);
  REQUIRE(weights.shape() == mixed);
  const std::byte* end = nullptr;
  for (std::size_t i = 0; i < mixed.count(); ++i) {
    const auto t = weights.tensor(i);
    CHECK(t.size() == mixed.bytes(i));
    CHECK(reinterpret_cast<std::uintptr_t>(t.data()) % weight_alignment == 0);
    CHECK((end == nullptr || t.data() >= end));
    CHECK(std::ranges::all_of(t, [](std::byte b) { return b == std::byte{0}; }));
    std::ranges::fill(t, std::byte{0xff});
    end = t.data() + t.size();
  }
}

TEST_CASE("weights move, and copy only when asked to") {
  static_assert(!std::is_copy_constructible_v<weight_buffer>);
  static_assert(!std::is_copy_assignable_v<weight_buffer>);
  weight_buffer first(mixed);
  first.tensor(0)[1] = std::byte{7};
  auto copy = first.clone();
  first.tensor(0)[1] = std::byte{8};
  CHECK(copy.tensor(0)[1] == std::byte{7});

  const auto moved = std::move(first);
  CHECK(moved.tensor(0)[1] == std::byte{8});
  CHECK(first.shape().count() == 0);
  copy = weight_buffer();
  CHECK(copy.shape().count() == 0);
  CHECK(copy.clone().shape().count() == 0);
}

TEST_CASE("weights are copied whole or not at all") {
  weight_buffer from(mixed);
  std::ranges::fill(from.tensor(4), std::byte{9});
  weight_buffer to(mixed);
  to.copy_from(from);
  CHECK(contents(to) == contents(from));

  weight_buffer other(layout({{"a", dtype::u8, {3}}}));
  check_refused([&] { other.copy_from(from); }, errc::wrong_layout, {});

  weight_buffer untouched(mixed);
  const auto before = contents(untouched);
  check_refused(
      [&] {
        untouched.copy_from(mixed, [&](std::size_t i) -> std::span<const std::byte> {
          return i == 4 ? from.tensor(4).first(64) : from.tensor(i);
        });
      },
      errc::wrong_layout, {"'z'"});
  CHECK(contents(untouched) == before);
}

TEST_CASE("weights too large for the machine are refused rather than crashed on") {
  const auto sum = [](std::uint64_t bytes) {
    std::vector<tensor_spec> specs;
    for (const char c : std::string("abcdefgh"))
      specs.push_back({std::string(1, c), dtype::u8, {bytes}});
    return layout(std::move(specs));
  };
  check_refused([&] { weight_buffer w(sum(1ull << 57)); }, errc::no_memory,
                {"1152921504606846976"});
  check_refused([&] { weight_buffer w(sum(1ull << 60)); }, errc::no_memory,
                {"9223372036854775808"});
  // Below 2^64 bytes only until the tensors are aligned.
  check_refused([&] { weight_buffer w(sum((1ull << 61) - 1)); }, errc::no_memory, {"2^64"});
}
