#include "sim/links.hpp"

#include <catch2/catch.hpp>

using namespace lockstep;

namespace {

sim::link_result measured(unsigned receivers, unsigned fanout) {
  sim::link_options o;
  o.receivers = receivers;
  o.fanout = fanout;
  return sim::measure_links(o);
}

}  // namespace

TEST_CASE("64 receivers on links that are the bottleneck: within 1.5 of one, for about one delta") {
  const auto one = measured(1, 0);
  for (const unsigned degree : {2u, 4u, 8u}) {
    const auto all = measured(64, degree);
    const auto delta = static_cast<double>(all.delta_bytes);
    const auto sent = static_cast<double>(all.trainer_bytes) / delta;
    INFO("degree " << degree << ": " << all.seconds << " s against " << one.seconds
                   << " s, the trainer sent " << sent << " deltas, a receiver at most "
                   << static_cast<double>(all.receiver_bytes_max) / delta);
    CHECK(all.seconds <= 1.5 * one.seconds);
    CHECK(sent <= 1.1 * degree);
  }
}

TEST_CASE("without fan-out the same fleet takes as long as all its deltas one after the other") {
  const auto one = measured(1, 0);
  const auto all = measured(16, 0);
  CHECK(all.seconds > 10 * one.seconds);
  CHECK(all.trainer_bytes > 16 * all.delta_bytes);
}

TEST_CASE("links of any speed can be measured: no bucket overtakes its announcement") {
  sim::link_options o;
  o.receivers = 1;
  o.fanout = 0;
  double before = 1e9;
  for (const std::uint64_t mb_s : {1, 50, 1'000, 100'000}) {
    o.link_bytes_per_s = mb_s * 1'000'000;
    const auto r = sim::measure_links(o);
    CHECK(r.seconds < before);
    before = r.seconds;
  }
}

TEST_CASE("a measurement of links is the same again") {
  const auto a = measured(8, 2);
  const auto b = measured(8, 2);
  CHECK(a.seconds == b.seconds);
  CHECK(a.trainer_bytes == b.trainer_bytes);
}
