// Trainers and receivers of different runtimes, linked over loopback.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cerrno>
#include <future>
#include <optional>

#include "actors/fleet.hpp"
#include "messages/wire_stream.hpp"
#include "transport/connector.hpp"

using namespace lockstep;

namespace {

settings listening() {
  auto s = quiet();
  s.transport.listen = "127.0.0.1:0";
  s.receiver.lease_ms = 600;
  s.receiver.ping_ms = 50;
  s.receiver.hello_ms = 100;
  return s;
}

settings connecting(std::uint16_t port) {
  auto s = listening();
  s.transport.listen.clear();
  s.transport.connect = "127.0.0.1:" + std::to_string(port);
  s.transport.retry_ms = 20;
  s.transport.retry_ms_max = 50;
  return s;
}

/// A receiver in a runtime of its own, as in another process.
struct remote {
  remote(std::uint16_t port, receiver_id id, receiver_options options = {}, settings s = settings())
      : rt(s.transport.connect.empty() ? connecting(port) : s), options_(std::move(options)) {
    options_.id = id;
    rx.emplace(rt, small_layout(), placed(std::move(options_), small_layout()));
  }
  runtime rt;
  receiver_options options_;
  std::optional<receiver> rx;
};

bool eventually(const std::function<bool()>& what, std::chrono::milliseconds patience = 10s) {
  const auto until = std::chrono::steady_clock::now() + patience;
  while (!what()) {
    if (std::chrono::steady_clock::now() >= until) return false;
    std::this_thread::sleep_for(2ms);
  }
  return true;
}

const receiver_status* find(const std::vector<receiver_status>& all, receiver_id id) {
  for (const auto& s : all)
    if (s.id == id) return &s;
  return nullptr;
}

std::string standing_of(const fleet& f, receiver_id id) {
  const auto all = f.t.receivers();
  const auto* s = find(all, id);
  return s == nullptr ? "unknown" : s->standing;
}

/// A link of the tests' own, over which anything can be said.
class raw_link {
 public:
  raw_link(std::uint16_t port, receiver_id id, const std::string& name,
           node_role role = node_role::receiver, std::uint64_t cluster = cluster_id("lockstep")) {
    greeting g;
    g.cluster = cluster;
    g.role = role;
    g.id = id;
    g.name = name;
    g.link = {7, id + std::uint64_t{port}};
    g.payload_bytes_max = payload_bytes_max;
    g.control_bytes_max = control_bytes_max;
    g.stream = role == node_role::receiver ? 1 : 0;
    control_ = dial(port, g);
    if (!control_) return;
    descriptor = control_->release();
    if (role != node_role::receiver) return;
    g.purpose = channel_purpose::bulk;
    g.stream = 0;
    bulk = dial(port, g);
  }
  ~raw_link() {
    if (descriptor >= 0) ::close(descriptor);
  }

  void say(const std::vector<std::byte>& bytes) const {
    for (std::size_t done = 0; done < bytes.size();) {
      const auto count = ::send(descriptor, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
      if (count < 0 && errno == EAGAIN) {
        std::this_thread::sleep_for(1ms);
        continue;
      }
      if (count <= 0) return;
      done += static_cast<std::size_t>(count);
    }
  }
  void say(const wire_message& m) const { say(encode_message(m)); }

  /// Whether the other side ends the link soon.
  bool is_ended() const {
    const auto until = std::chrono::steady_clock::now() + 5s;
    std::vector<char> bytes(4096);
    while (std::chrono::steady_clock::now() < until) {
      pollfd p{descriptor, POLLIN, 0};
      if (::poll(&p, 1, 50) <= 0) continue;
      const auto count = ::read(descriptor, bytes.data(), bytes.size());
      if (count == 0 || (count < 0 && errno != EAGAIN)) return true;
    }
    return false;
  }

 private:
  io_threads io_;  // before the channels, which must not outlive it

 public:
  int descriptor = -1;
  failure why;
  std::shared_ptr<channel> bulk;

 private:
  std::shared_ptr<channel> dial(std::uint16_t port, const greeting& g) {
    connect_options o;
    o.host = "127.0.0.1";
    o.port = port;
    o.self = g;
    auto made = std::make_shared<std::promise<connect_result>>();
    auto result = made->get_future();
    connect(io_, std::make_shared<security>(security_options{}), o,
            [made](connect_result r) { made->set_value(std::move(r)); });
    auto r = result.get();
    if (auto* f = std::get_if<failure>(&r)) {
      why = *f;
      return nullptr;
    }
    return std::get<std::shared_ptr<channel>>(r);
  }

  std::shared_ptr<channel> control_;
};

/// The control channel of a link that says it has sixteen bulk channels, and none of them.
class half_link {
 public:
  half_link(std::uint16_t port, receiver_id id) {
    connect_options o;
    o.host = "127.0.0.1";
    o.port = port;
    o.self.cluster = cluster_id("lockstep");
    o.self.id = id;
    o.self.name = "half";
    o.self.link = {8, id};
    o.self.stream = 16;
    auto made = std::make_shared<std::promise<connect_result>>();
    auto result = made->get_future();
    connect(io(), std::make_shared<security>(security_options{}), o,
            [made](connect_result r) { made->set_value(std::move(r)); });
    auto r = result.get();
    if (auto* c = std::get_if<std::shared_ptr<channel>>(&r)) control_ = std::move(*c);
  }

 private:
  static io_threads& io() {
    static io_threads shared;
    return shared;
  }
  std::shared_ptr<channel> control_;
};

}  // namespace

TEST_CASE("receivers of other runtimes are seeded, follow, and are audited") {
  fleet f(listening());
  f.t.seed(f.w);
  remote a(f.rt.port(), 1);
  remote b(f.rt.port(), 2);
  REQUIRE(f.t.wait_for_members(2, 10s));
  CHECK(same(*a.rx, f.w));
  for (unsigned label = 1; label <= 5; ++label) {
    const auto report = f.sync(label);
    CHECK(report.result == sync_result::ok);
    CHECK(report.participants.size() == 2);
    CHECK(same(*a.rx, f.w));
    CHECK(same(*b.rx, f.w));
    CHECK(a.rx->state().label == label);
  }
  const auto audits = f.t.audit();
  REQUIRE(audits.size() == 2);
  for (const auto& line : audits) CHECK(line.pass);
  const auto states = f.t.receivers();
  CHECK(find(states, 1)->sent_bytes > f.w.shape().total_bytes());
}

TEST_CASE("several bulk streams carry one delta, whatever overtakes what") {
  auto s = listening();
  s.bucket.bytes_max = (1 << 20) + (256 << 10);
  s.bucket.credit = 16;
  const layout wide({{"w", dtype::bf16, {8, 1 << 20}}});
  fleet f(s, wide);
  f.t.seed(f.w);
  auto there = connecting(f.rt.port());
  there.transport.streams = 4;
  runtime rt(there);
  receiver_options o;
  o.id = 3;
  receiver r(rt, wide, o);
  REQUIRE(f.t.wait_for_members(1, 20s));
  for (unsigned label = 1; label <= 3; ++label) {
    CHECK(f.sync(label).result == sync_result::ok);
    CHECK(same(r, f.w));
  }
}

TEST_CASE(
    "a trainer that comes back on its port finds its receivers, and sends them nothing anew") {
  auto s = listening();
  std::optional<fleet> f(std::in_place, s);
  f->t.seed(f->w);
  remote a(f->rt.port(), 1);
  REQUIRE(f->t.wait_for_members(1, 10s));
  REQUIRE(f->sync(1).result == sync_result::ok);
  const auto port = f->rt.port();
  const auto held = f->w.clone();
  f.reset();
  CHECK(eventually([&] { return !a.rx->state().ready; }));

  s.transport.listen = "127.0.0.1:" + std::to_string(port);
  f.emplace(s);
  f->w.copy_from(held);
  f->t.seed(f->w, 1);
  REQUIRE(f->t.wait_for_members(1, 10s));
  CHECK(eventually([&] { return a.rx->state().ready; }));
  CHECK(f->t.receivers()[0].reseeds == 0);
  CHECK(f->sync(2).result == sync_result::ok);
  CHECK(same(*a.rx, f->w));
}

TEST_CASE("who leaves on purpose is detached at once, who is cut off is dead, and comes back") {
  fleet f(listening());
  f.t.seed(f.w);
  std::optional<remote> a(std::in_place, f.rt.port(), 1);
  remote b(f.rt.port(), 2);
  REQUIRE(f.t.wait_for_members(2, 10s));
  a->rx->detach();
  CHECK(eventually([&] { return standing_of(f, 1) == "detached"; }, 2s));
  a.reset();
  REQUIRE(f.sync(1).result == sync_result::ok);
  a.emplace(f.rt.port(), 1);
  REQUIRE(f.t.wait_for_members(2, 10s));
  CHECK(f.sync(2).participants.size() == 2);
}

TEST_CASE("a receiver that crashes in its process is started again there and heals") {
  fleet f(listening());
  f.t.seed(f.w);
  receiver_options o;
  fault crash;
  crash.kind = fault_kind::crash;
  crash.label = 2;
  crash.receiver = 1;
  o.faults = std::make_shared<fault_plan>(std::vector<fault>{crash});
  remote a(f.rt.port(), 1, std::move(o));
  remote b(f.rt.port(), 2);
  REQUIRE(f.t.wait_for_members(2, 10s));
  REQUIRE(f.sync(1).result == sync_result::ok);
  const auto report = f.sync(2);
  CHECK(report.result == sync_result::recovered);
  CHECK(same(*a.rx, f.w));
  CHECK(f.t.receivers()[0].restarts == 1);
}

TEST_CASE("an audit names the first tensor that differs") {
  fleet f(listening());
  f.t.seed(f.w);
  auto memory = f.w.clone();
  receiver_options o;
  o.memory = memory_of(memory);
  remote a(f.rt.port(), 1, std::move(o));
  remote b(f.rt.port(), 2);
  REQUIRE(f.t.wait_for_members(2, 10s));
  memory.tensor(1)[5] ^= std::byte{4};
  const auto audits = f.t.audit();
  REQUIRE(audits.size() == 2);
  CHECK_FALSE(audits[0].pass);
  CHECK(audits[0].why_not == "tensor 'b' differs");
  CHECK(audits[1].pass);
}

TEST_CASE("weights that rot in another process while nobody syncs are given anew") {
  fleet f(listening());
  f.t.seed(f.w);
  weight_buffer memory(f.w.shape());
  std::atomic<int> seeds = 0;
  receiver_options o;
  o.memory = memory_of(memory);
  o.hooks.readiness_changed = [&](const readiness& state) {
    if (state.ready && ++seeds == 1) memory.tensor(1)[5] ^= std::byte{4};
  };
  auto s = connecting(f.rt.port());
  s.receiver.scrub_ms = 50;
  remote a(f.rt.port(), 1, std::move(o), s);
  remote b(f.rt.port(), 2);
  REQUIRE(f.t.wait_for_members(2, 10s));
  REQUIRE(eventually([&] { return seeds == 2 && standing_of(f, 1) == "member"; }));
  CHECK(f.status(1).reseeds == 2);
  CHECK(f.status(1).restarts == 1);
  for (const auto& audit : f.t.audit()) CHECK(audit.pass);
}

TEST_CASE("audits at the same time are each answered") {
  fleet f(listening());
  f.t.seed(f.w);
  remote a(f.rt.port(), 1);
  remote b(f.rt.port(), 2);
  REQUIRE(f.t.wait_for_members(2, 10s));
  std::vector<std::future<std::vector<receiver_audit>>> asked;
  for (int i = 0; i < 8; ++i)
    asked.push_back(std::async(std::launch::async, [&] { return f.t.audit(); }));
  for (auto& one : asked) {
    REQUIRE(one.wait_for(5s) == std::future_status::ready);
    const auto lines = one.get();
    REQUIRE(lines.size() == 2);
    CHECK(lines[0].pass);
    CHECK(lines[1].pass);
  }
}

TEST_CASE("links that are begun and not completed keep nobody out") {
  fleet f(listening());
  f.t.seed(f.w);
  std::atomic<bool> done = false;
  std::atomic<int> begun = 0;
  auto flood = std::async(std::launch::async, [&] {
    std::vector<std::unique_ptr<half_link>> held;
    for (receiver_id id = 100; !done && id < 3000; ++id, ++begun)
      held.push_back(std::make_unique<half_link>(f.rt.port(), id));
  });
  REQUIRE(eventually([&] { return begun > 300; }, 60s));
  remote a(f.rt.port(), 1);
  CHECK(f.t.wait_for_members(1, 10s));
  done = true;
  flood.get();
}

TEST_CASE("two trainers: a receiver keeps to the newer run, the older one is fenced") {
  fleet old(listening());
  old.t.seed(old.w);
  fleet young(listening());
  auto s = connecting(old.rt.port());
  s.transport.connect += ",127.0.0.1:" + std::to_string(young.rt.port());
  remote a(0, 1, {}, s);
  REQUIRE(old.t.wait_for_members(1, 10s));
  young.t.seed(young.w);
  REQUIRE(young.t.wait_for_members(1, 10s));
  CHECK(eventually([&] { return old.sync(1).reason == errc::fenced; }));
  CHECK(young.sync(1).result == sync_result::ok);
  CHECK(same(*a.rx, young.w));
}

TEST_CASE("a stranger's greeting is refused with its reason") {
  fleet f(listening());
  CHECK(raw_link(f.rt.port(), 1, "x", node_role::receiver, cluster_id("other")).why.reason ==
        errc::wrong_cluster);
  CHECK(raw_link(f.rt.port(), 1, "x", node_role::trainer).why.reason == errc::bad_input);
}

TEST_CASE("who is not in the list of members is refused, and so is who has a member's number") {
  auto s = listening();
  s.transport.members = "receiver-*,engine=9";
  fleet f(s);
  f.t.seed(f.w);
  const raw_link stranger(f.rt.port(), 1, "evil");
  CHECK(stranger.why.reason == errc::bad_input);
  CHECK(stranger.why.detail.find("transport.members names no 'evil' with the id 1") !=
        std::string::npos);
  CHECK(raw_link(f.rt.port(), 9, "receiver-9").why.reason == errc::bad_input);
  CHECK(raw_link(f.rt.port(), 8, "engine").why.reason == errc::bad_input);
  CHECK_FALSE(raw_link(f.rt.port(), 9, "engine").why);
  // Who only asks holds no weights.
  CHECK_FALSE(raw_link(f.rt.port(), 0, "evil", node_role::observer).why);
  remote a(f.rt.port(), 1);
  REQUIRE(f.t.wait_for_members(1, 10s));

  s.transport.members = "receiver-*,";
  CHECK_THROWS_AS(runtime(s), setting_error);
}

TEST_CASE("a linked peer that says what no receiver says is cut off, and nobody else suffers") {
  fleet f(listening());
  f.t.seed(f.w);
  remote a(f.rt.port(), 1);
  REQUIRE(f.t.wait_for_members(1, 10s));
  const auto cluster = cluster_id("lockstep");
  const incarnation inc{5, 6};
  const auto print = f.w.shape().fingerprint();
  const std::vector<std::pair<std::string, std::vector<std::byte>>> words{
      {"another's hello", encode_message(hello_msg{cluster, 1, "a", inc, print})},
      {"another's goodbye", encode_message(goodbye_msg{cluster, 1, inc})},
      {"another's pong", encode_message(pong_msg{cluster, 1, inc, {}})},
      {"a commit", encode_message(commit_msg{{cluster, {1, 1}, inc}, {}, 1, 1})},
      {"a ping", encode_message(ping_msg{cluster, inc, {1, 1}})},
      {"a question", encode_message(observe_msg{cluster, question::status})},
      {"garbage", std::vector<std::byte>(64, std::byte{0x55})},
  };
  for (const auto& [what, bytes] : words) {
    INFO(what);
    const raw_link peer(f.rt.port(), 9, "evil");
    REQUIRE(peer.descriptor >= 0);
    peer.say(bytes);
    CHECK(peer.is_ended());
  }
  CHECK(standing_of(f, 1) == "member");
  CHECK(f.sync(1).result == sync_result::ok);
  CHECK(same(*a.rx, f.w));
}

TEST_CASE("a number is not taken over under another name") {
  fleet f(listening());
  f.t.seed(f.w);
  remote a(f.rt.port(), 1);
  REQUIRE(f.t.wait_for_members(1, 10s));
  const raw_link peer(f.rt.port(), 1, "evil");
  peer.say(hello_msg{cluster_id("lockstep"), 1, "receiver-1", {5, 6}, f.w.shape().fingerprint()});
  std::this_thread::sleep_for(300ms);
  CHECK(standing_of(f, 1) == "member");
  CHECK(f.t.receivers()[0].restarts == 0);
}

TEST_CASE("a peer that floods is cut off") {
  fleet f(listening());
  f.t.seed(f.w);
  const raw_link peer(f.rt.port(), 9, "evil");
  const auto one = encode_message(pong_msg{cluster_id("lockstep"), 9, {5, 6}, {}});
  std::vector<std::byte> many;
  for (int i = 0; i < 1000; ++i) many.insert(many.end(), one.begin(), one.end());
  for (int i = 0; i < 200; ++i) peer.say(many);
  CHECK(peer.is_ended());
}

TEST_CASE("a silent link is ended when its lease is long over, and within two") {
  constexpr auto lease = 2'000ms;
  auto s = listening();
  s.receiver.lease_ms = lease.count();
  fleet f(s);
  f.t.seed(f.w);
  const auto began = std::chrono::steady_clock::now();
  const raw_link peer(f.rt.port(), 9, "mute");
  REQUIRE(peer.descriptor >= 0);
  const auto spoke = std::chrono::steady_clock::now();
  CHECK(peer.is_ended());
  const auto over = std::chrono::steady_clock::now();
  CHECK(over - spoke > 3 * lease / 2);
  CHECK(over - began <= 2 * lease);
}

TEST_CASE("a peer whose message does not end is cut off, though it goes on talking") {
  fleet f(listening());
  f.t.seed(f.w);
  const raw_link peer(f.rt.port(), 9, "endless");
  REQUIRE(peer.descriptor >= 0);
  const wire_message beat = beat_msg{cluster_id("lockstep")};
  auto endless = encode_message(beat);
  // Two words of its length have changed places, which TCP's checksum does not see: all that is
  // said for a long time is a part of it.
  const auto length = endless.begin() + static_cast<std::ptrdiff_t>(wire_header_bytes - 8);
  std::swap_ranges(length, length + 2, length + 2);
  peer.say(endless);
  std::atomic<bool> over = false;
  auto talking = std::async(std::launch::async, [&] {
    while (!over) {
      peer.say(beat);
      std::this_thread::sleep_for(50ms);
    }
  });
  CHECK(peer.is_ended());
  over = true;
  talking.get();
}

TEST_CASE("a trainer of more buckets than a link can announce is refused by name") {
  const auto of = [](std::uint64_t mebibytes) {
    return layout({{"a", dtype::bf16, {mebibytes, 1024, 512}}});
  };
  auto s = quiet();
  s.bucket.bytes_max = 5 << 18;  // holds one frame of a MiB
  {
    runtime alone(s);
    CHECK_NOTHROW(trainer(alone, of(1'000'000)));
  }
  s.transport.listen = "127.0.0.1:0";
  runtime linked(s);
  CHECK_NOTHROW(trainer(linked, of(174'000)));
  CHECK_THROWS_WITH(trainer(linked, of(175'000)), Catch::Contains("bucket.bytes_max is 1310720"));
  s.bucket.bytes_max = 64 << 20;
  runtime wide(s);
  CHECK_NOTHROW(trainer(wide, of(2'000'000)));  // a trillion elements
}

TEST_CASE("a runtime says what is wrong with where it listens") {
  auto s = listening();
  for (const auto* bad :
       {"127.0.0.1", ":1", "127.0.0.1:", "127.0.0.1:70000", "127.0.0.1:1x", "::1:5"}) {
    INFO(bad);
    s.transport.listen = bad;
    CHECK_THROWS_AS(runtime(s), setting_error);
  }
  s.transport.listen = "0.0.0.0:0";
  CHECK_THROWS_AS(runtime(s), error);
  runtime first(listening());
  s.transport.listen = "127.0.0.1:" + std::to_string(first.port());
  CHECK_THROWS_AS(runtime(s), error);
}
