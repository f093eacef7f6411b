// What an engine says of itself while nobody has had the time to say that its lease is over.
#include <catch2/catch.hpp>
#include <chrono>
#include <cstddef>
#include <future>
#include <span>
#include <thread>
#include <vector>

#include "actors/engine.hpp"

using namespace lockstep;
using namespace std::chrono_literals;

namespace {

const layout shape({{"w", dtype::u8, {4}}});
const std::vector<std::span<std::byte>> memory;  // its own
const readiness serving{true, receiver_phase::serving, {1, 2}, 7, errc::none};

}  // namespace

TEST_CASE("a lease that is over ends readiness before anybody publishes it") {
  engine e(0, "engine", shape, memory, {}, nullptr);
  e.publish(serving);
  const auto now = std::chrono::steady_clock::now();
  CHECK(e.state_at(now) == serving);  // nothing is known of a lease
  e.trust_until(now + 1s);
  CHECK(e.state_at(now + 1s - 1ns) == serving);
  const readiness silent{false, receiver_phase::serving, {1, 2}, 7, errc::lease_expired};
  CHECK(e.state_at(now + 1s) == silent);
  CHECK(e.state() == serving);
  // Why somebody else is not ready stands.
  const readiness torn{false, receiver_phase::torn, {}, 0, errc::torn};
  e.publish(torn);
  CHECK(e.state_at(now + 2s) == torn);
}

TEST_CASE("nobody waits for an engine whose lease is over, but for the trainer to be heard again") {
  engine e(0, "engine", shape, memory, {}, nullptr);
  e.publish(serving);
  e.trust_until(std::chrono::steady_clock::now() - 1ms);
  CHECK_FALSE(e.wait_ready(7, 10ms));
  // What was published is what it was: only the lease has changed.
  auto waiting = std::async(std::launch::async, [&] { return e.wait_ready(7, 60s); });
  std::this_thread::sleep_for(20ms);
  e.trust_until(std::chrono::steady_clock::now() + 1h);
  CHECK(waiting.wait_for(20s) == std::future_status::ready);
  CHECK(waiting.get());
}
