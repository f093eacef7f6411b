// Receivers that take a part of the tensors: what they are sent, have to prove, and are refused
// for.
#include <caf/scoped_actor.hpp>
#include <caf/send.hpp>
#include <catch2/catch.hpp>

#include "actors/fleet.hpp"
#include "actors/runtime_parts.hpp"
#include "weights/shard.hpp"

using namespace lockstep;

namespace {

using names = tensor_names;

receiver_options of(names tensors) {
  receiver_options out;
  out.tensors = std::move(tensors);
  return out;
}

}  // namespace

TEST_CASE("receivers take disjoint parts, and each is sent the bytes of its own") {
  const auto encoding = GENERATE(delta_encoding::raw, delta_encoding::coded);
  auto s = quiet();
  s.sync.encoding = encoding;
  fleet f(s);
  const names first{"a", "c"}, second{"d", "b"};
  auto& a = f.add(of(first));
  auto& b = f.add(of(second));
  auto& all = f.add();
  auto& spelled = f.add(of({"a", "b", "c", "d"}));  // all of them is all
  REQUIRE(f.seed());
  for (unsigned label = 1; label <= 5; ++label) {
    const auto report = f.sync(label);
    CHECK(report.result == sync_result::ok);
    CHECK(report.participants.size() == 4);
    // Two wholes, and one more in two parts.
    CHECK(report.sent_bytes == 3 * report.wire_bytes);
    CHECK(holds_part(a, f.w, first));
    CHECK(holds_part(b, f.w, second));
    CHECK(same(all, f.w));
    CHECK(same(spelled, f.w));
  }
  for (const auto& audit : f.t.audit()) CHECK(audit.pass);
  const auto whole = f.status(2), part = f.status(0), other = f.status(1);
  CHECK(part.sent_bytes + other.sent_bytes == whole.sent_bytes);
  CHECK(other.sent_bytes < whole.sent_bytes / 3);
  CHECK(whole.tensors == 4);
  CHECK(whole.part_bytes == f.w.shape().total_bytes());
  CHECK(part.tensors == 2);
  CHECK(part.part_bytes == 64 * 64 * 2);
  CHECK(other.part_bytes == 17 * 4 + 1000);
}

TEST_CASE("whoever takes a part fails, is sent again, reseeded and found out like others") {
  const auto at = [](fault_kind kind, std::uint64_t label) {
    fault out;
    out.kind = kind;
    out.label = label;
    out.receiver = 0;
    return out;
  };
  const auto encoding = GENERATE(delta_encoding::raw, delta_encoding::coded);
  auto s = quiet();
  s.sync.encoding = encoding;
  fleet f(s);
  const names tensors{"a", "b"};
  auto o = of(tensors);
  o.faults = std::make_shared<fault_plan>(std::vector<fault>{
      at(fault_kind::apply_fail, 1), at(fault_kind::crash, 2), at(fault_kind::corrupt_frame, 3),
      at(fault_kind::stage_fail, 4), at(fault_kind::false_ok, 5)});
  auto& part = f.add(std::move(o));
  f.add();
  REQUIRE(f.seed());
  for (unsigned label = 1; label <= 6; ++label) {
    INFO(label);
    const auto report = f.sync(label);
    CHECK(report.complete());
    if (label == 1) CHECK(report.participants[0].redos >= 1);
    if (label == 5) {
      // It answered with the public digest of its own part: the challenge finds that out.
      CHECK(report.participants[0].reason == errc::false_ack);
    }
    CHECK(holds_part(part, f.w, tensors));
    CHECK(same(*f.rx[1], f.w));
  }
  CHECK(f.status(0).reseeds >= 2);
  CHECK(f.status(1).reseeds == 1);
}

TEST_CASE("one who takes a part and was away is sent what its part has missed") {
  const bool since_the_seed = GENERATE(false, true);
  fleet f;
  f.add();
  const names tensors{"a"};
  auto memory = f.w.clone();
  const auto lent = [&] {
    auto o = of(tensors);
    o.id = 9;
    o.memory.resize(memory.shape().count());
    o.memory[0] = memory.tensor(0);
    return o;
  };
  auto away = std::make_unique<receiver>(f.rt, f.w.shape(), placed(lent(), f.w.shape()));
  f.t.seed(f.w, 0);
  REQUIRE(f.t.wait_for_members(2, 10s));
  if (!since_the_seed) REQUIRE(f.sync(1).result == sync_result::ok);
  away.reset();
  for (unsigned label = 2; label <= 4; ++label) REQUIRE(f.sync(label).complete());
  const auto untouched = std::vector<std::byte>(memory.tensor(3).begin(), memory.tensor(3).end());
  away = std::make_unique<receiver>(f.rt, f.w.shape(), placed(lent(), f.w.shape()));
  REQUIRE(f.t.wait_for_members(2, 10s));
  CHECK(holds_part(*away, f.w, tensors));
  CHECK(f.status(9).catch_ups == 1);
  CHECK(f.status(9).reseeds <= 1);
  CHECK(std::equal(untouched.begin(), untouched.end(), memory.tensor(3).begin()));
  CHECK(f.sync(5).result == sync_result::ok);
  CHECK(holds_part(*away, f.w, tensors));
}

TEST_CASE("an audit names the first tensor of a part that differs") {
  fleet f;
  auto memory = f.w.clone();
  auto o = of({"b", "d"});
  o.memory.resize(memory.shape().count());
  o.memory[1] = memory.tensor(1);
  o.memory[3] = memory.tensor(3);
  f.add(std::move(o));
  REQUIRE(f.seed());
  REQUIRE(f.sync(1).result == sync_result::ok);
  CHECK(f.t.audit().front().pass);
  memory.tensor(3)[999] ^= std::byte{4};
  const auto audit = f.t.audit();
  CHECK_FALSE(audit.front().pass);
  CHECK(audit.front().why_not == "tensor 'd' differs");
}

TEST_CASE("a part that cannot be taken is refused where it is named") {
  fleet f;
  const auto code = [&](receiver_options o) {
    o.id = 5;
    try {
      receiver r(f.rt, f.w.shape(), std::move(o));
      return errc::none;
    } catch (const error& e) {
      return e.code();
    }
  };
  CHECK(code(of({"a", "x"})) == errc::wrong_layout);
  CHECK(code(of({"a", "a"})) == errc::wrong_layout);
  CHECK(code(of({"c"})) == errc::wrong_layout);  // it has no bytes
  auto o = of({"a"});
  o.memory = memory_of(f.w);  // of all tensors
  CHECK(code(std::move(o)) == errc::wrong_layout);
}

TEST_CASE("a hello with an impossible part is refused by name, and costs others nothing") {
  fleet f;
  f.add();
  REQUIRE(f.seed());
  const auto& inside = f.rt.inside();
  caf::scoped_actor stranger(*inside.system);
  const auto packed = [](std::vector<unsigned> bytes) {
    std::vector<std::byte> out;
    for (const auto b : bytes) out.push_back(static_cast<std::byte>(b));
    return payload(std::move(out));
  };
  struct bad_part {
    payload taken;
    hash128 model;
    std::string why;
  };
  const auto print = f.w.shape().fingerprint();
  const std::vector<bad_part> all{
      {packed({1, 0}), print, "its part is not one of this many tensors"},
      {packed({0x11}), print, "its part names tensors that there are not"},
      {packed({0}), print, "its part holds nothing"},
      {packed({4}), print, "its part holds nothing"},
      {packed({15}), print, "its part is the whole, and called a part"},
      {packed({1}), {1, 2}, "its part is one of another model"}};
  receiver_id id = 100;
  for (const auto& bad : all) {
    INFO(bad.why);
    ++id;
    stranger->send(inside.supervisor,
                   hello_msg{inside.env->cluster, id, "stranger", {id, 1}, bad.model, bad.taken});
    std::string detail;
    for (int i = 0; i < 1000 && detail.empty(); ++i) {
      std::this_thread::sleep_for(2ms);
      detail = f.status(id).detail;
    }
    CHECK(detail == bad.why);
    CHECK(f.status(id).reason == errc::wrong_layout);
    CHECK_FALSE(f.status(id).member);
  }
  CHECK(f.sync(1).result == sync_result::ok);
}

TEST_CASE("no more different parts are served than there may be") {
  std::vector<tensor_spec> specs;
  for (char name = 'a'; name < 'k'; ++name) specs.push_back({std::string(1, name), dtype::u8, {8}});
  const layout shape(std::move(specs));
  auto s = quiet();
  s.sync.attach_timeout_ms = 100;
  fleet f(s, shape);
  REQUIRE(f.seed());
  const auto& inside = f.rt.inside();
  caf::scoped_actor stranger(*inside.system);
  // Nobody answers to an attach, so that all of them wait to be served.
  std::size_t refused = 0;
  const auto count = static_cast<receiver_id>(receiver_parts_max + 20);
  for (receiver_id id = 1; id <= count; ++id) {
    shard_mask taken(10);
    for (std::size_t i = 0; i < 9; ++i) taken[i] = (id >> i & 1u) != 0;
    stranger->send(inside.supervisor, hello_msg{inside.env->cluster,
                                                id,
                                                "s" + std::to_string(id),
                                                {id, 1},
                                                shape.fingerprint(),
                                                packed_part(taken)});
  }
  for (int i = 0; i < 500 && refused == 0; ++i) {
    std::this_thread::sleep_for(5ms);
    const auto all = f.t.receivers();
    refused = static_cast<std::size_t>(
        std::ranges::count_if(all, [](const auto& r) { return r.reason == errc::bad_manifest; }));
  }
  CHECK(refused > 0);
}

TEST_CASE("a life that says later that it takes other tensors is not listened to") {
  fleet f;
  f.add();
  REQUIRE(f.seed());
  const auto& inside = f.rt.inside();
  const auto print = f.w.shape().fingerprint();
  const auto hello = [&](const shard_mask& taken, const hash128& model) {
    return hello_msg{inside.env->cluster, 7, "stranger", {7, 1}, model, packed_part(taken)};
  };
  // Over another link each: a life may lose one and come back by the next.
  caf::scoped_actor first(*inside.system), second(*inside.system), third(*inside.system);
  first->send(inside.supervisor, hello({true, false, false, false}, print));
  const auto of_a = f.w.shape().bytes(0);
  for (int i = 0; i < 1000 && f.status(7).part_bytes != of_a; ++i) std::this_thread::sleep_for(2ms);
  REQUIRE(f.status(7).part_bytes == of_a);
  second->send(inside.supervisor, hello({false, true, false, false}, print));
  std::this_thread::sleep_for(100ms);
  CHECK(f.status(7).part_bytes == of_a);
  third->send(inside.supervisor, hello({true, false, false, false}, {1, 2}));
  std::this_thread::sleep_for(100ms);
  CHECK(f.status(7).part_bytes == of_a);  // 0 if it were of another model
  CHECK(f.sync(1).result == sync_result::ok);
}
