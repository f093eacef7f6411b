#include "weights/redo_log.hpp"

#include <random>

#include "test_files.hpp"
#include "weights/byte_changes.hpp"

using namespace lockstep;
using namespace lockstep::test;

namespace {

/// `bytes` with about that share of them other ones.
std::string changed(std::string bytes, double density, std::mt19937& random) {
  std::bernoulli_distribution differs(density);
  for (auto& b : bytes)
    if (differs(random)) b = static_cast<char>(b ^ (1 + static_cast<int>(random() % 255)));
  return bytes;
}

std::string noise(std::size_t size, std::mt19937& random) {
  std::string out(size, 0);
  for (auto& b : out) b = static_cast<char>(random());
  return out;
}

std::vector<std::size_t> differences(const std::string& a, const std::string& b) {
  std::vector<std::size_t> out;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (a[i] != b[i]) out.push_back(i);
  return out;
}

auto bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

// Around the blocks and pieces that are compared at once, and whole windows.
const std::vector<std::size_t> sizes{0,    1,    7,    8,    63,     64,
                                     65,   100,  4095, 4096, 4097,   4096 + 64,
                                     8192, 9999, 8191, 4159, 70'001, redo_log::window_bytes_max};
constexpr std::array densities{0.0, 0.001, 0.02, 0.3, 0.9, 1.0};

}  // namespace

TEST_CASE("every byte that differs is visited once, in order") {
  std::mt19937 random(3);
  for (const auto size : sizes)
    for (const auto density : densities) {
      INFO(size << " bytes, density " << density);
      const auto old = noise(size, random);
      const auto fresh = changed(old, density, random);
      std::vector<std::size_t> seen;
      for_each_difference(bytes_of(old), bytes_of(fresh), [&](auto at) { seen.push_back(at); });
      CHECK(seen == differences(old, fresh));
      seen.clear();
      for_each_nonzero(bytes_of(fresh), [&](auto at) { seen.push_back(at); });
      CHECK(seen == differences(fresh, std::string(size, 0)));
    }
}

TEST_CASE("a redo log makes what it was given of what was there, of a mix, and again") {
  const temp_dir dir;
  std::mt19937 random(5);
  for (const auto density : densities) {
    INFO("density " << density);
    std::string old, fresh;
    redo_log log(dir / "log");
    for (const auto size : sizes) {
      const auto before = noise(size, random);
      const auto after = changed(before, density, random);
      CHECK(log.add(0, old.size(), bytes_of(before), bytes_of(after)) ==
            differences(before, after).size());
      old += before;
      fresh += after;
    }
    REQUIRE(is_sealed(dir / "log", log.seal()));
    for (const auto& there : {old, old.substr(0, 90'000) + fresh.substr(90'000), fresh}) {
      put(dir / "file", there);
      redo(dir / "log", {dir / "file"});
      CHECK(get(dir / "file") == fresh);
    }
  }
}

// Two bytes of numbers, at the most, for each that changes: what a window may come to has room.
TEST_CASE("a redo log holds the window that makes the most runs") {
  const temp_dir dir;
  std::string old(redo_log::window_bytes_max, 'a');
  auto fresh = old;
  for (std::size_t i = old.size() % 4; i < old.size(); i += 4) fresh[i] = 'b';
  fresh.back() = 'b';
  redo_log log(dir / "log");
  log.add(0, 0, bytes_of(old), bytes_of(fresh));
  REQUIRE(is_sealed(dir / "log", log.seal()));
  put(dir / "file", old);
  redo(dir / "log", {dir / "file"});
  CHECK(get(dir / "file") == fresh);
}
