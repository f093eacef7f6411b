// How far a pull says it is, and how soon it ends when it is told to.
#include <algorithm>
#include <atomic>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "test_files.hpp"
#include "weights/acknowledgement.hpp"
#include "weights/host_record.hpp"
#include "weights/plain_file.hpp"
#include "weights/publisher.hpp"
#include "weights/pull.hpp"

using namespace lockstep;
using namespace lockstep::test;

namespace {

constexpr std::uint64_t mib = 1 << 20;
constexpr std::uint64_t bound = 16 * mib;

weight_buffer filled(const layout& shape, unsigned seed) {
  weight_buffer weights(shape);
  for (std::size_t i = 0; i < shape.count(); ++i)
    for (auto& b : weights.tensor(i)) b = static_cast<std::byte>((seed = seed * 1664525 + 1) >> 24);
  return weights;
}

/// A stream with one full version of 40 MiB, and a host with nothing.
struct place {
  place() {
    const layout shape({{"a", dtype::u8, {36 * mib + 5}}, {"b", dtype::bf16, {mib}}});
    const auto base = filled(shape, 1);
    const auto target = filled(shape, 2);
    publisher_options options;
    options.out = dir / "stream";
    options.how.shard_bytes_max = 1 << 20;  // a shard for each tensor
    publisher to(options);
    to.add(1, 0, source_of(base), source_of(target),
           {true, {{std::string(own_key::challenge), challenge_text(7)}}});
  }

  pull_options options() const {
    pull_options out;
    out.source = dir / "stream";
    out.checkpoint = dir / "host";
    return out;
  }

  temp_dir dir;
};

}  // namespace

TEST_CASE("a copy says how many bytes it has copied, a bounded number at a time") {
  const place p;
  std::uint64_t size = 0;
  for (const auto& file : fs::directory_iterator(p.dir / "stream/weight_v000001"))
    size += file.file_size();
  std::uint64_t before = 0;
  std::vector<std::uint64_t> steps;
  auto options = p.options();
  options.progress = [&](std::string_view what, std::uint64_t done, std::uint64_t all) {
    if (what.find("copying") != 0) return;
    CHECK(all == size);
    REQUIRE(done >= before);
    steps.push_back(done - std::exchange(before, done));
  };
  CHECK(pull(options).read_bytes == size);
  CHECK(before == size);
  CHECK(*std::max_element(steps.begin(), steps.end()) <= bound);
}

TEST_CASE("a pull that is told to stop leaves off within one file, and while it is proven") {
  const place p;
  auto options = p.options();
  // In the midst of the larger file, and when all is copied and only to be proven.
  for (const bool whole : {false, true}) {
    std::atomic<bool> stop = false;
    std::uint64_t copied = 0;
    options.progress = [&](std::string_view, std::uint64_t done, std::uint64_t all) {
      copied = done;
      if (done >= (whole ? all : 1)) stop = true;
    };
    options.stopping = [&] { return stop.load(); };
    check_refused([&] { pull(options); }, errc::shut_down, {"told to stop"});
    CHECK((whole ? copied > 2 * bound : copied <= 1 + bound));
    CHECK_FALSE(marker_of(options.checkpoint));
  }
  options.progress = {};
  options.stopping = {};
  CHECK(pull(options).whole);
}

TEST_CASE("a stop ends the reads of what is held, and says what is held") {
  const place p;
  auto options = p.options();
  pull(options);
  options.stopping = [] { return true; };
  options.name = "a";
  check_refused([&] { pull(options); }, errc::shut_down,
                {"is at version 1, but that could not be said", "told to stop"});
  CHECK_FALSE(fs::exists(p.dir / "stream/acks/a.json"));
  // What others have touched is read to find out what it is.
  const auto shard = p.dir / "host/model-00000-of-00002.safetensors";
  fs::last_write_time(shard, fs::last_write_time(shard) - std::chrono::hours(1));
  check_refused([&] { pull(options); }, errc::shut_down, {"told to stop"});
  options.stopping = {};
  CHECK(pull(options).deltas == 0);
  CHECK(fs::exists(p.dir / "stream/acks/a.json"));
}
