#include "weights/workers.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <random>
#include <stdexcept>
#include <thread>

#include "weights/bucket_codec.hpp"

using namespace lockstep;

namespace {

/// Puts the number of workers back.
struct workers_kept {
  ~workers_kept() { set_workers(0); }
};

struct memory {
  std::vector<std::vector<std::byte>> bytes;
  tensor_views views;

  explicit memory(const std::vector<std::size_t>& sizes) {
    std::mt19937_64 random(7);
    for (const auto size : sizes) {
      auto& tensor = bytes.emplace_back(size);
      std::ranges::generate(tensor, [&] { return static_cast<std::byte>(random()); });
    }
    for (const auto& tensor : bytes) views.push_back({{tensor.data(), tensor.size()}, 1});
  }
};

const std::vector<std::size_t> sizes{0,
                                     1,
                                     7,
                                     8,
                                     8191,
                                     8192,
                                     8193,
                                     100,
                                     0,
                                     batches::bytes_max - 1,
                                     batches::bytes_max,
                                     batches::bytes_max + 1,
                                     3 * batches::bytes_max + 12345,
                                     5,
                                     5,
                                     0};

}  // namespace

TEST_CASE("every index is worked on once, whoever does it") {
  const workers_kept kept;
  for (const unsigned count : {1u, 2u, 7u, 0u}) {
    set_workers(count);
    for (const std::size_t n : {0U, 1U, 2U, 3U, 1000U}) {
      std::vector<std::atomic<int>> done(n);
      for_each_index(n, [&](std::size_t i) { ++done[i]; });
      CHECK(std::ranges::all_of(done, [](const auto& d) { return d == 1; }));
    }
  }
}

TEST_CASE("several threads make passes at the same time") {
  std::atomic<std::size_t> sum{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int round = 0; round < 50; ++round) for_each_index(20, [&](std::size_t i) { sum += i; });
    });
  for (auto& t : threads) t.join();
  CHECK(sum == 4 * 50 * 190);
}

TEST_CASE("a forked process makes its passes alone") {
  std::atomic<int> done{0};
  const auto pass = [&] {
    done = 0;
    for_each_index(100, [&](std::size_t) { ++done; });
    return done == 100;
  };
  REQUIRE(pass());  // now there are helpers here, and none in the child
  const auto child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::alarm(20);
    ::_exit(pass() && pass() ? 0 : 1);
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

TEST_CASE("what a worker throws is thrown by the pass, after all have let go") {
  const workers_kept kept;
  for (const unsigned count : {1u, 0u}) {
    set_workers(count);
    std::atomic<int> inside{0};
    const auto pass = [&] {
      for_each_index(100, [&](std::size_t i) {
        ++inside;
        if (i == 10) {
          --inside;
          throw std::runtime_error("ten");
        }
        --inside;
      });
    };
    CHECK_THROWS_WITH(pass(), "ten");
    CHECK(inside == 0);
  }
}

TEST_CASE("batches hold every byte once, in order, and are of about one size") {
  const memory m(sizes);
  const batches all(m.views);
  std::uint32_t tensor = 0;
  std::size_t at = 0;
  for (std::size_t i = 0; i < all.count(); ++i) {
    std::size_t bytes = 0;
    for (const auto& part : all[i]) {
      while (at == sizes[tensor]) {
        ++tensor;
        at = 0;
      }
      REQUIRE(part.tensor == tensor);
      REQUIRE(part.offset == at);
      REQUIRE(part.bytes > 0);
      at += part.bytes;
      bytes += part.bytes;
    }
    CHECK(bytes <= batches::bytes_max);
    CHECK(bytes > 0);
  }
  CHECK(tensor == 14);
  CHECK(at == sizes[tensor]);
  CHECK(batches({}).count() == 0);
}

TEST_CASE("digests of many threads are those of one tensor after the other") {
  const workers_kept kept;
  const memory m(sizes);
  for (const unsigned count : {1u, 3u, 0u}) {
    set_workers(count);
    kernels::digest_sum sum;
    std::vector<digest> each;
    const kernels::digest_key key(99);
    for (std::size_t i = 0; i < m.views.size(); ++i) {
      const auto one = kernels::digest_tensor(key, static_cast<std::uint32_t>(i), m.views[i].bytes);
      each.push_back({one.lane[0], one.lane[1]});
      sum += one;
    }
    const digest whole{sum.lane[0], sum.lane[1]};
    CHECK(digest_of(99, m.views) == whole);
    CHECK(digests_of(99, m.views) == each);
    const auto [first, second] = digest_pair(99, public_digest_seed, m.views);
    CHECK(first == whole);
    CHECK(second == digest_of(public_digest_seed, m.views));
    CHECK(digest_pair(public_digest_seed, 99, m.views) == std::pair(second, first));
  }
}
