// What a receiver's actor hears beside what its machine does, altered before its checksum was made,
// or by a lying peer: docs/wire-messages.md, last table. hostile_control_test.cpp has the
// machine's.
#include <catch2/catch.hpp>

#include "actors/lone_receiver.hpp"
#include "tests/support/wire_bytes.hpp"

using namespace lockstep;

namespace {

/// Says `said` with each bit flipped in turn: the engine is as it was, and so is what it shows.
template <class M, class Check>
void say_altered(lone_receiver& r, const M& said, Check check) {
  const auto memory = r.memory;
  const auto state = r.bytes->state();
  const auto played = for_each_altered(said, [&](const wire_message& altered, std::size_t bit) {
    const auto& m = std::get<M>(altered);
    CAPTURE(name_of(altered), bit);
    r.says(m);
    check(m, r.settle());
    REQUIRE((r.memory == memory));
    REQUIRE((r.bytes->state() == state));
  });
  CHECK(played >= 100);
}

}  // namespace

TEST_CASE("what is not for a receiver's machine writes nothing, whatever of it is altered") {
  lone_receiver r;
  const bool serves = GENERATE(false, true);
  if (serves) {
    r.attach();
    r.stage_target();
  }
  r.settle();
  REQUIRE(r.bytes->state().ready == serves);

  say_altered(r, audit_msg{r.cluster, r.inc, 1ull << 40}, [&](const auto& m, std::size_t answers) {
    CHECK(answers == (r.strange(m) ? 0 : 1));
  });
  say_altered(r, welcome_msg{r.cluster, 1}, [](const auto&, std::size_t) {});
  say_altered(r, refused_msg{r.cluster, r.inc, errc::wrong_layout, "why"},
              [&](const auto& m, std::size_t) {
                const bool believed = !serves && !r.strange(m);
                CHECK(r.bytes->refusal().reason == (believed ? m.reason : errc::none));
                r.bytes->refuse({});
              });
  say_altered(r, relay_parent_msg{r.cluster, r.inc, {1, 1}, 2, 1, 8, "8", "there", 1},
              [&](const auto& m, std::size_t) {
                const auto order = next_of<relay_order>(r.relay);
                REQUIRE(order);
                CHECK(order->what == m);  // the relay has guards of its own
              });
  std::size_t cut = 0;
  const auto buckets = full_plan(r.shape, views_of(r.base), 1).content().buckets.size();
  say_altered(
      r,
      relay_lend_msg{
          r.cluster, r.inc, {1, 3}, {1, 0}, 8, {8, 8}, 1, static_cast<std::uint32_t>(buckets), 0},
      [&](const auto& m, std::size_t) {
        const bool heard = m.inc == r.inc;
        const auto lent = next_of<relay_lent>(r.relay, heard ? 10s : 0s);
        REQUIRE(lent.has_value() == heard);
        if (!lent) return;
        CHECK(lent->whole == (serves && m.version == version_ref{1, 0}));
        r.relay->send(r.receiver, relay_cut{m, m.first});
        const auto made = next_of<relay_made>(r.relay);
        REQUIRE(made);
        if (made->bytes.size() == 0) return;
        CHECK(lent->whole);
        ++cut;
      });
  CHECK((cut > 0) == serves);

  // And what was under way goes on.
  if (serves)
    r.commit();
  else
    r.attach();
  CHECK(r.bytes->state().ready);
  CHECK((r.memory == guarded_memory(serves ? r.target : r.base)));
}
