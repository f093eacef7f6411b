#include "messages/layout.hpp"

#include <catch2/catch.hpp>

#include "messages/errors.hpp"

using namespace lockstep;

TEST_CASE("dtypes know their width and their name") {
  for (int i = 0; i <= static_cast<int>(dtype::last_); ++i) {
    const auto t = static_cast<dtype>(i);
    CHECK(parse_dtype(to_string(t)) == t);
    const auto unit = unit_bytes(t);
    CHECK((unit == 1 || unit == 2 || unit == 4 || unit == 8));
  }
  CHECK(bits_of(dtype::f4) == 4);
  CHECK(bits_of(dtype::bf16) == 16);
  CHECK(unit_bytes(dtype::c64) == 8);
  CHECK_FALSE(parse_dtype("BF17"));
}

TEST_CASE("sizes are checked for overflow and whole bytes") {
  CHECK(bytes_of({"scalar", dtype::f32, {}}) == 4u);
  CHECK(bytes_of({"empty", dtype::f32, {0, 7}}) == 0u);
  CHECK(bytes_of({"packed", dtype::f4, {3, 2}}) == 3u);
  CHECK_FALSE(bytes_of({"half a byte", dtype::f4, {3}}));
  CHECK_FALSE(bytes_of({"overflow", dtype::u8, {4194305, 4194305, 211106198978564}}));
}

TEST_CASE("a layout is canonical, whatever the order it was given in") {
  const tensor_spec a{"a", dtype::bf16, {2, 3}};
  const tensor_spec b{"b", dtype::u8, {5}};
  const layout one({a, b});
  const layout two({b, a});
  CHECK(one == two);
  CHECK(one.fingerprint() == two.fingerprint());
  CHECK(one.total_bytes() == 17);
  CHECK(one.find("b") == 1u);
  CHECK_FALSE(one.find("c"));
}

TEST_CASE("a fingerprint sees names, types, shapes and where one ends and the next begins") {
  const auto print = [](std::vector<tensor_spec> t) { return layout(std::move(t)).fingerprint(); };
  const auto base = print({{"a", dtype::bf16, {2, 3}}});
  CHECK(base != print({{"A", dtype::bf16, {2, 3}}}));
  CHECK(base != print({{"a", dtype::f16, {2, 3}}}));
  CHECK(base != print({{"a", dtype::bf16, {3, 2}}}));
  CHECK(base != print({{"a", dtype::bf16, {6}}}));
  CHECK(print({{"ab", dtype::u8, {1}}, {"c", dtype::u8, {1}}}) !=
        print({{"a", dtype::u8, {1}}, {"bc", dtype::u8, {1}}}));
}

TEST_CASE("a layout refuses duplicates, empty names and sizes it cannot hold") {
  CHECK_THROWS_AS(layout({{"a", dtype::u8, {1}}, {"a", dtype::u8, {1}}}), error);
  CHECK_THROWS_AS(layout({{"", dtype::u8, {1}}}), error);
  CHECK_THROWS_WITH(layout({{"big", dtype::u64, {1ull << 62}}}),
                    Catch::Matchers::Contains("'big'"));
}
