// What a receiver makes of buckets that come before what announces them.
#include <catch2/catch.hpp>

#include "actors/lone_receiver.hpp"

using namespace lockstep;

namespace {

/// Three buckets lead from what it holds to the target.
struct ahead_of : lone_receiver {
  explicit ahead_of(std::uint64_t staged_bytes_max = settings().receiver.staged_bytes_max)
      : lone_receiver(staged_bytes_max) {
    attach();
    REQUIRE(delta.buckets.size() == 3);
  }

  prepare_msg prepare() const {
    return {txn, {1, 0}, state(base), {{1, 2}, state(target), 1}, delta.content};
  }
  void bucket(std::uint32_t index) { says(bucket_msg{txn, index, delta.buckets[index]}); }
  bool credited(std::uint32_t index, std::chrono::milliseconds patience = 10s) {
    const auto credit = next<credit_msg>(patience);
    return credit && credit->env == txn && credit->index == index;
  }

  const encoded_delta delta = encode_delta(shape, views_of(base), views_of(target), 1);
};

}  // namespace

TEST_CASE("what comes ahead is staged, paid for once, and believed when it is announced") {
  ahead_of r;
  r.bucket(0);
  r.bucket(2);
  CHECK(r.credited(0));
  CHECK(r.credited(2));
  r.bucket(2);  // again
  r.settle();
  CHECK(r.bytes->staged_bytes() > 0);
  CHECK_FALSE(r.next<credit_msg>(0s));
  CHECK_FALSE(r.next<reply_msg>(0s));  // nobody has asked it anything
  CHECK(r.bytes->state().ready);
  r.says(r.prepare());
  r.settle();
  CHECK_FALSE(r.next<credit_msg>(0s));
  r.bucket(1);
  CHECK(r.credited(1));
  r.answers(reply_kind::vote_yes);
  r.commit();
  CHECK((r.memory == guarded_memory(r.target)));
}

TEST_CASE("all of a delta may be there when it is announced") {
  ahead_of r;
  for (const auto i : {1u, 0u, 2u}) {
    r.bucket(i);
    CHECK(r.credited(i));
  }
  r.says(r.prepare());
  r.answers(reply_kind::vote_yes);
  r.commit();
  CHECK((r.memory == guarded_memory(r.target)));
}

TEST_CASE("what comes ahead is staged as far as there is room for it, and waits for the rest") {
  const auto bytes = ahead_of().delta.content.bytes;
  ahead_of r(bytes + bytes / 2);
  r.bucket(0);
  CHECK(r.credited(0));
  r.bucket(1);
  r.bucket(2);
  r.settle();
  CHECK_FALSE(r.next<credit_msg>(0s));
  r.says(r.prepare());
  CHECK(r.credited(1));
  CHECK(r.credited(2));
  r.answers(reply_kind::vote_yes);
  r.commit();
  CHECK((r.memory == guarded_memory(r.target)));
}

TEST_CASE("what comes ahead is refused when it is not what is announced") {
  ahead_of r;
  const auto spoilt = GENERATE(false, true);
  auto announced = r.prepare();
  if (spoilt)
    announced.content.buckets[1].hash.lo ^= 1;
  else
    announced.content.bytes += 1;  // a manifest that does not add up
  r.bucket(1);
  CHECK(r.credited(1));
  r.says(announced);
  const auto said = r.answers(reply_kind::vote_no);
  CHECK(said.reason == (spoilt ? errc::bad_checksum : errc::bad_manifest));
  r.settle();
  CHECK(r.bytes->staged_bytes() == 0);
  CHECK(r.bytes->state().ready);
  CHECK((r.memory == guarded_memory(r.base)));
}

TEST_CASE("what comes ahead goes when another transaction comes, or fewer buckets are announced") {
  ahead_of r;
  r.bucket(2);
  CHECK(r.credited(2));
  SECTION("an attach") {
    r.says(attach_msg{{r.cluster, {1, 3}, r.inc},
                      {{1, 0}, lone_receiver::state(r.base), 0},
                      r.shape.fingerprint(),
                      7});
    r.answers(reply_kind::attached);
  }
  SECTION("a newer one ahead") {
    r.says(bucket_msg{{r.cluster, {1, 4}, r.inc}, 0, payload()});
    r.settle();
    r.bucket(1);  // of the older one
  }
  SECTION("a delta without it") {
    auto none = r.prepare();
    none.content.buckets.clear();
    none.content.bytes = 0;
    r.says(none);
    r.answers(reply_kind::vote_no);
  }
  r.settle();
  CHECK(r.bytes->staged_bytes() == 0);
  CHECK(r.bytes->state().ready);
  CHECK((r.memory == guarded_memory(r.base)));
}

TEST_CASE("who does not serve keeps what comes ahead, unpaid, and takes all weights from it") {
  lone_receiver r;
  const auto full = full_plan(r.shape, views_of(r.target), 1u << 20);
  REQUIRE(full.content().buckets.size() == 1);
  r.says(bucket_msg{r.txn, 0, full.make(0, views_of(r.target))});
  r.settle();
  CHECK(r.bytes->staged_bytes() == 0);
  CHECK_FALSE(r.next<credit_msg>(0s));
  r.says(
      full_begin_msg{r.txn, {{1, 2}, lone_receiver::state(r.target), 1}, full.content(), 9, false});
  r.answers(reply_kind::full_ok);
  CHECK(r.next<credit_msg>());
  CHECK((r.memory == guarded_memory(r.target)));
}

TEST_CASE("a life that ends in the midst of what came ahead takes up no more of it") {
  struct crash_once final : fault_source {
    bool strikes(fault_kind kind, const transfer_ref&, receiver_id) override {
      return kind == fault_kind::crash && !std::exchange(struck, true);
    }
    bool struck = false;
  };
  lone_receiver r(settings().receiver.staged_bytes_max, std::make_shared<crash_once>());
  const auto full = full_plan(r.shape, views_of(r.target), 1);
  const auto count = static_cast<std::uint32_t>(full.content().buckets.size());
  REQUIRE(count > 1);
  for (std::uint32_t i = 0; i < count; ++i)
    r.says(bucket_msg{r.txn, i, full.make(i, views_of(r.target))});
  r.settle();
  r.test->monitor(r.receiver);
  r.says(
      full_begin_msg{r.txn, {{1, 2}, lone_receiver::state(r.target), 1}, full.content(), 9, false});
  REQUIRE(r.next<caf::down_msg>());
  CHECK_FALSE(r.next<reply_msg>(0s));
  CHECK_FALSE((r.memory == guarded_memory(r.target)));
}
