#include "protocol/flusher_fsm.hpp"

#include <catch2/catch.hpp>

using namespace lockstep;

using indices = std::vector<std::uint32_t>;

namespace {
const envelope env{1, {2, 3}, {4, 5}};
const envelope other{1, {2, 4}, {4, 5}};
}  // namespace

TEST_CASE("flusher: at most `credit` buckets are under way") {
  flusher_fsm f(2);
  CHECK_FALSE(f.streaming());
  CHECK_FALSE(f.drained());
  CHECK(f.on_start(env, 3) == indices{0, 1});
  CHECK(f.on_credit({env, 9, 1}) == indices{2});
  CHECK(f.on_credit({env, 9, 0}).empty());
  CHECK_FALSE(f.drained());
  CHECK(f.on_credit({env, 9, 2}).empty());
  CHECK(f.drained());
}

TEST_CASE("flusher: a peer cannot widen the window") {
  flusher_fsm f(1);
  f.on_start(env, 4);
  CHECK(f.on_credit({other, 9, 0}).empty());  // of another stream
  CHECK(f.on_credit({env, 9, 1}).empty());    // not sent yet
  CHECK(f.on_credit({env, 9, 77}).empty());   // out of range
  CHECK(f.on_credit({env, 9, 0}) == indices{1});
  for (int again = 0; again < 4; ++again) {
    CHECK(f.on_credit({env, 9, 0}).empty());  // given twice
    CHECK_FALSE(f.drained());
  }
}

TEST_CASE("flusher: a stopped or replaced stream takes no credit") {
  flusher_fsm f(1);
  CHECK(f.on_credit({env, 9, 0}).empty());
  f.on_start(env, 2);
  f.on_stop();
  CHECK(f.on_credit({env, 9, 0}).empty());
  CHECK_FALSE(f.drained());
  CHECK(f.on_start(other, 1) == indices{0});
  CHECK(f.on_credit({env, 9, 0}).empty());
  f.on_credit({other, 9, 0});
  CHECK(f.drained());
  f.on_start(env, 0);
  CHECK(f.drained());
}

TEST_CASE("flusher: what an earlier stream's receiver took is not taken of the next") {
  flusher_fsm f(2);
  f.on_start(env, 2);
  f.on_credit({env, 9, 0});
  CHECK(f.on_start(other, 2) == indices{0, 1});
  f.on_credit({other, 9, 0});
  f.on_credit({other, 9, 1});
  CHECK(f.drained());
}

TEST_CASE("flusher: what there is ahead leaves within the credit, and is not sent again") {
  flusher_fsm f(2);
  CHECK(f.on_ahead(env, 1) == indices{0});
  CHECK(f.streaming());
  CHECK(f.on_credit({env, 9, 0}).empty());
  CHECK_FALSE(f.drained());  // nobody knows yet whether that was all
  CHECK(f.on_ahead(env, 4) == indices{1, 2});
  CHECK(f.on_ahead(env, 3).empty());  // it knows of more
  CHECK(f.on_credit({env, 9, 1}) == indices{3});
  CHECK(f.on_start(env, 5).empty());
  CHECK(f.under_way() == 2);
  CHECK(f.on_ahead(env, 9).empty());  // it is announced
  CHECK(f.on_credit({env, 9, 2}) == indices{4});
  f.on_credit({env, 9, 3});
  f.on_credit({env, 9, 4});
  CHECK(f.drained());
}

TEST_CASE("flusher: what is ahead takes nothing's place, and anything takes its") {
  flusher_fsm f(1);
  f.on_start(env, 2);
  CHECK(f.on_ahead(other, 1).empty());
  CHECK(f.on_credit({env, 9, 0}) == indices{1});
  f.on_credit({env, 9, 1});
  CHECK(f.drained());
  f.on_stop();
  CHECK(f.on_ahead(other, 1) == indices{0});
  CHECK(f.on_ahead(env, 3).empty());
  CHECK(f.on_start(env, 2) == indices{0});  // another stream after all
  f.on_credit({env, 9, 0});
  f.on_credit({env, 9, 1});
  CHECK(f.drained());
  f.on_stop();
  CHECK(f.on_ahead(other, 1) == indices{0});
  CHECK(f.on_ahead(env, 3).empty());
  f.on_start(other, 1);
  f.on_credit({other, 9, 0});
  CHECK(f.drained());
  f.on_stop();
  CHECK(f.on_ahead(other, 2) == indices{0});
  CHECK(f.on_start(other, 1) == indices{0});  // fewer than there were: from the beginning
  f.on_stop();
  CHECK(f.on_ahead(other, 1) == indices{0});
  f.on_stop();
  CHECK(f.on_start(other, 2) == indices{0});  // what was stopped is forgotten
}

TEST_CASE("flusher: what others bring does not leave, unless it falls to us") {
  flusher_fsm f(2);
  CHECK(f.on_start(env, 6, {false, true, true, false, true, false}) == indices{0, 3});
  CHECK(f.awaited(1));
  CHECK(f.on_credit({env, 9, 1}).empty());  // brought by another: frees nothing of ours
  CHECK_FALSE(f.awaited(1));
  CHECK(f.on_ours(indices{1, 2, 4, 77}).empty());  // the window is full
  CHECK(f.on_credit({env, 9, 2}).empty());         // came after all
  CHECK(f.on_credit({env, 9, 0}) == indices{4});
  CHECK(f.on_credit({env, 9, 3}) == indices{5});
  CHECK(f.on_ours(indices{4}).empty());
  f.on_credit({env, 9, 4});
  CHECK_FALSE(f.drained());
  f.on_credit({env, 9, 5});
  CHECK(f.drained());
  f.on_stop();
  CHECK(f.on_ours(indices{1}).empty());
}

TEST_CASE("flusher: what falls to us leaves in order, also when later ones have left") {
  for (const auto& fallen : {indices{2, 4}, indices{4, 2}}) {
    flusher_fsm f(4);
    CHECK(f.on_start(env, 6, {false, true, true, false, true, false}) == indices{0, 3, 5});
    CHECK(f.on_ours(fallen) == indices{2});
    CHECK(f.on_credit({env, 9, 0}) == indices{4});
    CHECK(f.awaited(1));
    CHECK_FALSE(f.awaited(2));
    CHECK_FALSE(f.awaited(0));
    CHECK_FALSE(f.awaited(77));
  }
}

TEST_CASE("flusher: what has fallen to us may still be brought by others, until it leaves") {
  flusher_fsm f(1);
  CHECK_FALSE(f.unsent(0));
  f.on_start(env, 4, {false, true, true, true});
  CHECK_FALSE(f.unsent(0));
  CHECK(f.unsent(1));
  CHECK(f.on_ours(indices{1, 2}).empty());
  CHECK(f.unsent(1));
  CHECK_FALSE(f.awaited(1));
  CHECK(f.unsent(3));
  CHECK_FALSE(f.unsent(4));
  CHECK(f.on_credit({env, 9, 2}).empty());  // brought after all
  CHECK_FALSE(f.unsent(2));
  CHECK(f.on_credit({env, 9, 0}) == indices{1});
  CHECK_FALSE(f.unsent(1));
  f.on_stop();
  CHECK_FALSE(f.unsent(3));
}

TEST_CASE("flusher: nothing falls to us of a stream that was stopped") {
  flusher_fsm f(2);
  f.on_start(env, 3, {false, true, true});
  f.on_stop();
  CHECK_FALSE(f.awaited(1));
  CHECK(f.on_ours(indices{1}).empty());
  // Nor does what others were to bring of it concern the next one.
  CHECK(f.on_start(other, 3) == indices{0, 1});
  CHECK_FALSE(f.awaited(2));
}

TEST_CASE("flusher: of what others bring, more or less may be said than there is") {
  flusher_fsm f(2);
  CHECK(f.on_start(env, 2, {false, true, true, true}) == indices{0});
  CHECK(f.on_start(env, 2, {true}) == indices{1});
}

TEST_CASE("flusher: what has not been sent may be handed over to others") {
  flusher_fsm f(2);
  CHECK_FALSE(f.on_elsewhere(0));
  CHECK(f.on_start(env, 6, {false, false, false, true, false, false}) == indices{0, 1});
  CHECK_FALSE(f.on_elsewhere(1));  // it has been sent
  CHECK_FALSE(f.on_elsewhere(3));  // others bring it already
  CHECK_FALSE(f.on_elsewhere(6));
  CHECK(f.on_elsewhere(4));
  CHECK(f.awaited(4));
  CHECK(f.on_credit({env, 9, 0}) == indices{2});
  CHECK(f.on_credit({env, 9, 1}) == indices{5});
  CHECK(f.on_ours(indices{4}).empty());  // two are under way
  CHECK(f.on_credit({env, 9, 2}) == indices{4});
  CHECK_FALSE(f.on_elsewhere(4));
  f.on_start(env, 6);
  f.on_stop();
  CHECK_FALSE(f.on_elsewhere(5));  // of a stream that is over
}
