// Ranks whose trainers do not come to a sync together: which transaction each sync has a part in.
#include <caf/send.hpp>
#include <catch2/catch.hpp>
#include <future>

#include "actors/ranked_fleet.hpp"
#include "actors/runtime_parts.hpp"

using namespace lockstep;

namespace {

/// Rank 0 gives the others up soon.
settings short_of_patience(settings s) {
  s.sync.recovery_timeout_ms = 700 * slowness;
  return s;
}

/// `trainer(rank).sync(label)` in a thread of its own.
std::future<sync_report> begin(ranked_fleet& f, std::uint32_t rank, std::uint64_t label) {
  return std::async(std::launch::async,
                    [&, rank, label] { return f.t[rank]->sync(label, f.w).wait(); });
}

bool is_aborted(std::future<sync_report>& sync, errc reason) {
  const auto report = sync.get();
  INFO(to_string(report.result) << ' ' << to_string(report.reason) << ' ' << report.detail);
  CHECK(report.result == sync_result::aborted);
  CHECK(report.reason == reason);
  return report.result == sync_result::aborted && report.reason == reason;
}

bool all_succeed(std::vector<std::future<sync_report>> syncs) {
  bool all = true;
  for (auto& sync : syncs) {
    const auto report = sync.get();
    UNSCOPED_INFO(to_string(report.result)
                  << ' ' << to_string(report.reason) << ' ' << report.detail);
    all = all && report.result == sync_result::ok;
  }
  return all;
}

template <class... Syncs>
std::vector<std::future<sync_report>> together(Syncs... syncs) {
  std::vector<std::future<sync_report>> out;
  (out.push_back(std::move(syncs)), ...);
  return out;
}

}  // namespace

TEST_CASE("who comes to a sync before hearing that the last was called off has a part in the new") {
  const bool asked_first = GENERATE(false, true);
  CAPTURE(asked_first);
  ranked_fleet f;
  const auto start = [&](std::uint32_t rank, std::uint16_t leader) {
    auto s = of_rank(rank, leader);
    s.receiver.lease_ms = 20'000;  // a link that stands still for a while is none that is lost
    s.sync.recovery_timeout_ms = 2'000 * slowness;
    f.start(s);
  };
  start(0, 0);
  bad_road road;
  road.leads_to = f.rt[0]->port();
  start(1, road.port);
  start(2, f.rt[0]->port());
  auto at = f.of_receivers();
  at.receiver.lease_ms = 20'000;
  f.there.push_back(std::make_unique<runtime>(at));
  receiver_options o;
  o.id = 1;
  f.rx.push_back(std::make_unique<receiver>(*f.there.back(), f.w.shape(), std::move(o)));
  REQUIRE(f.seed());
  REQUIRE(f.t[0]->wait_for_members(1, 20s));
  // That rank 1 was heard in this one is nothing to the next.
  REQUIRE(f.sync(1).result == sync_result::ok);

  // Rank 1 is asked for the first sync before or after its trainer has come to the second one, and
  // hears last of all that the first was called off.
  step(f.w, 2);
  if (!asked_first) road.now = bad_road::way::stands_still;
  auto first0 = begin(f, 0, 2), first2 = begin(f, 2, 2);
  std::this_thread::sleep_for(200ms * slowness);
  road.now = bad_road::way::stands_still;
  CHECK(is_aborted(first0, errc::timeout));
  CHECK(is_aborted(first2, errc::none));
  step(f.w, 3);
  auto second1 = begin(f, 1, 3);
  std::this_thread::sleep_for(200ms * slowness);
  auto second0 = begin(f, 0, 3), second2 = begin(f, 2, 3);
  road.now = bad_road::way::good;
  CHECK(all_succeed(together(std::move(second0), std::move(second1), std::move(second2))));
  CHECK(f.all_hold());
}

TEST_CASE("who comes to syncs after they were called off catches up with the others") {
  ranked_fleet f;
  f.start(short_of_patience(of_rank(0, 0)));
  for (std::uint32_t rank = 1; rank < ranks; ++rank) f.start(rank);
  f.add(1);
  REQUIRE(f.seed());
  REQUIRE(f.t[0]->wait_for_members(1, 20s));
  for (unsigned label = 1; label <= 2; ++label) {
    step(f.w, label);
    auto other = begin(f, 2, label), leader = begin(f, 0, label);
    CHECK(is_aborted(leader, errc::timeout));
    CHECK(is_aborted(other, errc::none));
  }
  step(f.w, 3);
  auto other = begin(f, 2, 3), leader = begin(f, 0, 3);
  for (unsigned label = 1; label <= 2; ++label) {
    auto late = begin(f, 1, label);
    CHECK(is_aborted(late, errc::timeout));
  }
  CHECK(all_succeed(together(std::move(leader), begin(f, 1, 3), std::move(other))));
  CHECK(f.all_hold());
}

TEST_CASE("a sync that took the place of one that was given up does not end with that one's") {
  ranked_fleet f;
  f.add(1);
  REQUIRE(f.seed());
  REQUIRE(f.t[0]->wait_for_members(1, 20s));
  // Rank 1's trainer has stopped waiting for its tensors to be read, so it cannot encode.
  const auto gone = std::make_shared<ticket_state>(20s);
  REQUIRE_FALSE(gone->wait_read(0ms));
  caf::anon_send(f.rt[1]->inside().supervisor, sync_request{1, reader_of(f.w), gone});
  auto first0 = begin(f, 0, 1);
  REQUIRE(gone->wait_read(20s));
  // It comes to the next before rank 2 has come to this one, which ends only then.
  auto second1 = begin(f, 1, 2);
  REQUIRE(gone->wait_report(20s));
  CHECK(gone->wait_report(0s)->reason == errc::busy);
  auto first2 = begin(f, 2, 1);
  CHECK(is_aborted(first0, errc::timeout));
  CHECK(is_aborted(first2, errc::none));
  step(f.w, 2);  // rank 1's part is not read before the others have come
  auto second0 = begin(f, 0, 2), second2 = begin(f, 2, 2);
  CHECK(all_succeed(together(std::move(second0), std::move(second1), std::move(second2))));
  CHECK(f.all_hold());
}

TEST_CASE("a sync whose tensors rank 0 cannot read ends for ranks that come a moment later") {
  ranked_fleet f;
  f.add(1);
  REQUIRE(f.seed());
  REQUIRE(f.t[0]->wait_for_members(1, 20s));
  auto leader = std::async(std::launch::async, [&] {
    const tensor_reader fails = [](std::size_t) -> std::span<const std::byte> {
      throw std::runtime_error("no tensors");
    };
    return f.t[0]->sync(1, fails).wait();
  });
  std::this_thread::sleep_for(200ms);
  auto other1 = begin(f, 1, 1), other2 = begin(f, 2, 1);
  const bool ended = other1.wait_for(10s) == std::future_status::ready &&
                     other2.wait_for(10s) == std::future_status::ready;
  for (std::uint32_t rank = 1; rank < ranks && !ended; ++rank) f.t[rank]->stop();
  REQUIRE(ended);
  CHECK(is_aborted(leader, errc::encode_failed));
  CHECK(is_aborted(other1, errc::none));
  CHECK(is_aborted(other2, errc::none));
  CHECK(f.sync(2).result == sync_result::ok);
  CHECK(f.all_hold());
}
