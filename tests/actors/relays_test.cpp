// Receivers that have buckets from each other: each in a runtime of its own, linked over loopback.
#include "actors/relays.hpp"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cerrno>
#include <filesystem>
#include <future>
#include <map>
#include <optional>

#include "messages/wire_stream.hpp"
#include "transport/connector.hpp"

using namespace lockstep;

namespace {

/// Buckets of 1.25 MiB, of which a sync that changes everything has a dozen.
layout wide_layout() {
  return layout({{"w", dtype::bf16, {6, 1 << 20}}, {"b", dtype::f32, {17}}});
}

/// A receiver in a runtime of its own, as in another process.
struct remote {
  remote(const settings& s, receiver_id id, receiver_options options = {}) : rt(s) {
    options.id = id;
    rx.emplace(rt, wide_layout(), std::move(options));
  }
  runtime rt;
  std::optional<receiver> rx;
};

/// What comes of dialing a receiver's port for other receivers.
connect_result dial(io_threads& io, std::uint16_t port, node_role role, channel_purpose purpose) {
  connect_options o;
  o.host = "127.0.0.1";
  o.port = port;
  o.expected = node_role::receiver;
  o.self.cluster = cluster_id("lockstep");
  o.self.role = role;
  o.self.purpose = purpose;
  o.self.id = 77;
  o.self.name = "evil";
  o.self.link = {7, port};
  o.self.stream = role == node_role::receiver && purpose == channel_purpose::control ? 1 : 0;
  o.self.payload_bytes_max = payload_bytes_max;
  o.self.control_bytes_max = control_bytes_max;
  auto made = std::make_shared<std::promise<connect_result>>();
  auto result = made->get_future();
  connect(io, std::make_shared<security>(security_options{}), o,
          [made](connect_result r) { made->set_value(std::move(r)); });
  return result.get();
}

/// Whether the other side ends the connection soon.
bool is_ended(int descriptor) {
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

/// Of this process.
std::ptrdiff_t open_descriptors() {
  return std::ranges::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                               std::filesystem::directory_iterator());
}

/// A trainer and receivers that pass buckets on.
struct relayed_fleet {
  relayed_fleet(unsigned receivers, std::uint32_t degree) : f(listening(degree), wide_layout()) {
    f.t.seed(f.w);
    for (receiver_id id = 1; id <= receivers; ++id) add(id);
    REQUIRE(f.t.wait_for_members(receivers, 30s));
    REQUIRE((receivers == 1 || settled()));
  }

  void add(receiver_id id, receiver_options options = {}) {
    auto s = connecting(f.rt.port());
    // Others have buckets of it over a road of our own.
    auto& road = roads[id];
    s.transport.relay_address = "127.0.0.1:" + std::to_string(road.port);
    all.try_emplace(id, s, id, std::move(options));
    road.leads_to = all.at(id).rt.port();
  }

  /// Some have buckets of this one.
  bool feeds_others(receiver_id id) {
    const auto feeds = f.t.relays().feeds;
    return std::ranges::any_of(feeds, [&](const auto& x) { return x.parent == id; });
  }

  /// All that is planned is linked, and has stayed so for a moment.
  bool settled() {
    std::size_t since = 0;
    return eventually([&] {
      const auto feeds = f.t.relays().feeds;
      const bool up = !feeds.empty() && std::ranges::all_of(feeds, &receiver_feed::up);
      since = up ? since + 1 : 0;
      return since > 20;
    });
  }

  sync_report sync() {
    // Everything changes, so that there are many buckets.
    for (std::size_t i = 0; i < f.w.shape().count(); ++i)
      for (auto& b : f.w.tensor(i)) b ^= std::byte{0x55};
    return f.sync(++label);
  }

  std::uint64_t sent() {
    std::uint64_t out = 0;
    for (const auto& s : f.t.receivers()) out += s.sent_bytes;
    return out;
  }
  /// To this life of one.
  std::uint64_t sent(receiver_id id) {
    for (const auto& s : f.t.receivers())
      if (s.id == id) return s.sent_bytes;
    return 0;
  }

  /// Before a receiver takes all weights: throws if it is not linked to others, as planned, in
  /// time.
  void wait_for_links(receiver_id id) {
    const bool linked = eventually([&] {
      const auto feeds = f.t.relays().feeds;
      return std::ranges::any_of(feeds, [&](const auto& x) { return x.id == id && x.up; }) &&
             std::ranges::none_of(feeds, [&](const auto& x) { return x.id == id && !x.up; });
    });
    if (!linked) throw std::runtime_error("it is not linked to anybody");
  }

  /// How the ways to all others are from now on.
  void lead_to_others(receiver_id id, bad_road::way way) {
    for (auto& [other, road] : roads)
      if (other != id) road.now = way;
  }

  /// One life ends, and the next begins with nothing and gets all weights, from others too: it
  /// takes none before it is linked to them, and to whom then leads a way like this.
  void add_anew(receiver_id id, bad_road::way way = bad_road::way::good) {
    const auto members = [&] {
      return static_cast<std::size_t>(std::ranges::count_if(
          f.t.receivers(), [](const receiver_status& s) { return s.member; }));
    };
    const auto all_members = members();
    all.erase(id);
    REQUIRE(eventually([&] { return members() == all_members - 1; }));
    receiver_options options;
    options.hooks.pause = [this, id, way] {
      wait_for_links(id);
      lead_to_others(id, way);
    };
    add(id, std::move(options));
    REQUIRE(f.t.wait_for_members(all_members, 20s));
    CHECK(same(*all.at(id).rx, f.w));
  }

  /// Bytes that one has had from others.
  std::uint64_t relayed(receiver_id id) {
    const auto lines = f.t.relays().relayed;
    const auto it = std::ranges::find(lines, id, &receiver_relayed::id);
    return it == lines.end() ? 0 : it->bytes;
  }

  /// Of whom most others have buckets.
  receiver_id busiest() {
    std::map<receiver_id, int> children;
    for (const auto& x : f.t.relays().feeds) ++children[x.parent];
    REQUIRE_FALSE(children.empty());
    return std::ranges::max_element(children, {}, [](const auto& c) { return c.second; })->first;
  }

  std::map<receiver_id, bad_road> roads;
  fleet f;
  std::map<receiver_id, remote> all;
  unsigned label = 0;
};

}  // namespace

TEST_CASE("with fan-out a trainer sends a delta about once, and everybody has it") {
  relayed_fleet g(5, 2);
  for (int i = 0; i < 3; ++i) {
    const auto before = g.sent();
    const auto report = g.sync();
    REQUIRE(report.result == sync_result::ok);
    for (auto& [id, r] : g.all) CHECK(same(*r.rx, g.f.w));
    CHECK(report.wire_bytes > 10 * 1'000'000);
    // One each stripe; more where there was no room in a tree.
    CHECK(g.sent() - before <= report.wire_bytes * 3 / 2);
  }
  for (const auto& line : g.f.t.audit()) CHECK(line.pass);
}

TEST_CASE("a relay that changes what it passes on poisons nobody, and passes nothing on any more") {
  relayed_fleet g(5, 2);
  const auto liar = g.busiest();
  g.roads.at(liar).now = bad_road::way::lies;
  const auto report = g.sync();
  // Its fault is nobody else's: nobody is evicted.
  CHECK(report.result == sync_result::ok);
  CHECK(g.roads.at(liar).bytes_down > 100'000);
  for (auto& [id, r] : g.all) CHECK(same(*r.rx, g.f.w));
  CHECK(eventually([&] { return !g.feeds_others(liar); }));
  REQUIRE(g.settled());
  const auto before = g.sent();
  const auto next = g.sync();
  CHECK(next.result == sync_result::ok);
  CHECK(g.sent() - before <= next.wire_bytes * 5 / 2);
  for (auto& [id, r] : g.all) CHECK(same(*r.rx, g.f.w));
}

TEST_CASE("nobody takes a bucket that a relay made for the same XXH3") {
  std::vector<std::byte> bytes(5'000, std::byte{7});
  const payload honest(bytes);
  forgery::forge(std::span(bytes).subspan<forgery::block_bytes, forgery::block_bytes>());
  const payload forged(bytes);
  REQUIRE_FALSE(forged == honest);
  REQUIRE(hash_of(forged) == hash_of(honest));
  CHECK_FALSE(hash_of(forged, bucket_hash::sha256) == hash_of(honest, bucket_hash::sha256));

  relayed_fleet g(5, 2);
  const auto liar = g.busiest();
  g.roads.at(liar).now = bad_road::way::forges;
  const auto report = g.sync();
  CHECK(report.result == sync_result::ok);
  CHECK(g.roads.at(liar).forged > 0);
  for (auto& [id, r] : g.all) CHECK(same(*r.rx, g.f.w));
  CHECK(eventually([&] { return !g.feeds_others(liar); }));
  CHECK(g.sync().result == sync_result::ok);
  for (const auto& line : g.f.t.audit()) CHECK(line.pass);
}

TEST_CASE("a relay that stands still delays a sync by the time to notice, and no more") {
  relayed_fleet g(5, 2);
  REQUIRE(g.sync().result == sync_result::ok);
  const auto still = g.busiest();
  g.roads.at(still).now = bad_road::way::stands_still;
  const auto report = g.sync();
  CHECK(report.result == sync_result::ok);
  for (auto& [id, r] : g.all) CHECK(same(*r.rx, g.f.w));
  // Far below what staging has time for.
  CHECK(report.total.count() < 30.0);
  CHECK(report.total.count() > stall_ms / 1e3);
  CHECK(eventually([&] { return !g.feeds_others(still); }));
  REQUIRE(g.settled());
  // Nobody waits for it again, so nobody has to be helped by the trainer.
  const auto before = g.sent();
  const auto next = g.sync();
  CHECK(next.result == sync_result::ok);
  CHECK(g.sent() - before <= next.wire_bytes * 5 / 2);
  for (auto& [id, r] : g.all) CHECK(same(*r.rx, g.f.w));
}

TEST_CASE("a relay that ends while it passes on is missed by nobody but the trainer") {
  relayed_fleet g(6, 2);
  REQUIRE(g.sync().result == sync_result::ok);
  for (receiver_id id = 2; id <= 4; ++id) {
    INFO("receiver " << id);
    REQUIRE(g.settled());
    for (std::size_t i = 0; i < g.f.w.shape().count(); ++i)
      for (auto& b : g.f.w.tensor(i)) b ^= std::byte{0x33};
    const auto ticket = g.f.t.sync(++g.label, g.f.w);
    std::this_thread::sleep_for(std::chrono::milliseconds(3 * id));
    g.all.erase(id);
    const auto report = ticket.wait();
    // It left on purpose, in the midst of it: the others are whole.
    for (const auto& p : report.participants)
      if (p.id != id) CHECK(p.status == terminal::ok);
    for (auto& [other, r] : g.all) CHECK(same(*r.rx, g.f.w));
  }
  for (const auto& line : g.f.t.audit()) CHECK(line.pass);
}

TEST_CASE("who comes later has from others, and who restarts is found again") {
  relayed_fleet g(3, 2);
  g.add(4);
  g.add(5);
  REQUIRE(g.f.t.wait_for_members(5, 20s));
  REQUIRE(g.settled());
  CHECK(g.sync().result == sync_result::ok);
  const auto again = g.busiest();
  g.all.erase(again);
  g.add(again);
  REQUIRE(g.f.t.wait_for_members(5, 20s));
  REQUIRE(g.settled());
  const auto before = g.sent();
  const auto report = g.sync();
  CHECK(report.result == sync_result::ok);
  CHECK(g.sent() - before <= report.wire_bytes * 3 / 2);
  for (auto& [id, r] : g.all) CHECK(same(*r.rx, g.f.w));
  const auto relayed = g.f.t.relays().relayed;
  CHECK(relayed.size() == 5);
}

TEST_CASE("who comes back with nothing has all weights from those who hold them") {
  relayed_fleet g(4, 2);
  REQUIRE(g.sync().result == sync_result::ok);
  const auto model = g.f.w.shape().total_bytes();
  g.add_anew(2);
  // The trainer begins, while the newcomer is being linked to the others.
  CHECK(g.sent(2) < model * 3 / 4);
  CHECK(g.relayed(2) > model / 4);
  // What was taken is counted beside what makes it a member, and perhaps behind it; the last of it
  // not at all where that has ended the shipment by then.
  CHECK(eventually([&] { return g.relayed(2) + g.sent(2) >= model * 3 / 4; }));
  CHECK(g.sync().result == sync_result::ok);
  for (const auto& line : g.f.t.audit()) CHECK(line.pass);
}

TEST_CASE("who all need all weights at once have them from each other") {
  relayed_fleet g(1, 2);
  const auto model = g.f.w.shape().total_bytes();
  for (receiver_id id = 2; id <= 6; ++id) {
    receiver_options options;
    options.hooks.pause = [&g, id] { g.wait_for_links(id); };
    g.add(id, std::move(options));
  }
  REQUIRE(g.f.t.wait_for_members(6, 30s));
  for (std::size_t i = 0; i < g.f.w.shape().count(); ++i)
    for (auto& b : g.f.w.tensor(i)) b ^= std::byte{0x77};
  const auto before = g.sent();
  g.f.t.seed(g.f.w);
  REQUIRE(g.f.t.wait_for_members(6, 30s));
  for (auto& [id, r] : g.all) CHECK(same(*r.rx, g.f.w));
  // Some of it has left before they are linked; six of it without.
  CHECK(g.sent() - before < model * 4);
}

TEST_CASE("weights that are lent with lies in them are found out, and the trainer sends them") {
  relayed_fleet g(4, 2);
  REQUIRE(g.sync().result == sync_result::ok);
  g.lead_to_others(2, bad_road::way::lies);  // what is said at first passes
  g.add_anew(2, bad_road::way::lies);
  CHECK(g.sent(2) > g.f.w.shape().total_bytes() * 3 / 4);
  for (const auto& line : g.f.t.audit()) CHECK(line.pass);
}

TEST_CASE("who is to lend and stands still delays a transfer by the time to notice, and no more") {
  relayed_fleet g(4, 2);
  REQUIRE(g.sync().result == sync_result::ok);
  const auto begun = std::chrono::steady_clock::now();
  g.add_anew(2, bad_road::way::stands_still);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
  CHECK(took.count() > 2.0);
  CHECK(took.count() < 20.0);
  CHECK(g.sent(2) > g.f.w.shape().total_bytes() * 3 / 4);
  for (const auto& line : g.f.t.audit()) CHECK(line.pass);
}

TEST_CASE("receivers that pass nothing on, and a trainer that asks nobody to, get along") {
  SECTION("no fan-out") {
    fleet f(listening(0), wide_layout());
    f.t.seed(f.w);
    remote a(connecting(f.rt.port()), 1);
    remote b(connecting(f.rt.port()), 2);
    REQUIRE(f.t.wait_for_members(2, 20s));
    CHECK(f.sync(1).result == sync_result::ok);
    CHECK(f.t.relays().feeds.empty());
    CHECK(same(*b.rx, f.w));
  }
  SECTION("nobody listens") {
    fleet f(listening(4), wide_layout());
    f.t.seed(f.w);
    auto s = connecting(f.rt.port());
    s.transport.relay_listen.clear();
    remote a(s, 1);
    remote b(s, 2);
    REQUIRE(f.t.wait_for_members(2, 20s));
    CHECK(f.sync(1).result == sync_result::ok);
    CHECK(f.t.relays().feeds.empty());
    CHECK(same(*b.rx, f.w));
  }
}

TEST_CASE("settings under which nobody could pass anything on are refused") {
  auto s = connecting(1);
  s.transport.listen = "127.0.0.1:0";
  CHECK_THROWS_AS(runtime(s), setting_error);
  s = connecting(1);
  s.transport.connect.clear();
  CHECK_THROWS_AS(runtime(s), setting_error);
  s = connecting(1);
  s.transport.relay_listen = "here";
  CHECK_THROWS_AS(runtime(s), setting_error);
  s = connecting(1);
  s.transport.relay_listen = "0.0.0.0:0";
  runtime open(s);  // a receiver is refused that would be found there without any security
  CHECK_THROWS_AS(receiver(open, wide_layout(), {}), error);
}

TEST_CASE("a link that ends as soon as it begins gives its connections back") {
  fleet f(listening(2), wide_layout());
  auto s = connecting(f.rt.port());
  remote r(s, 1);
  const auto port = r.rt.port();
  r.rx.reset();  // nobody is left who passes buckets on
  io_threads io;
  const auto before = open_descriptors();
  for (int i = 0; i < 20; ++i) {
    auto control = dial(io, port, node_role::receiver, channel_purpose::control);
    auto bulk = dial(io, port, node_role::receiver, channel_purpose::bulk);
    REQUIRE(std::holds_alternative<std::shared_ptr<channel>>(control));
    REQUIRE(std::holds_alternative<std::shared_ptr<channel>>(bulk));
    const auto descriptor = std::get<std::shared_ptr<channel>>(control)->release();
    CHECK(is_ended(descriptor));
    ::close(descriptor);
  }
  // What the threads that dial need is opened at the first call.
  CHECK(eventually([&] { return open_descriptors() < before + 10; }));
}

TEST_CASE("at a receiver's port nothing is understood but who wants buckets") {
  relayed_fleet g(3, 2);
  const auto port = g.all.at(1).rt.port();
  io_threads io;
  for (const auto role : {node_role::trainer, node_role::observer}) {
    const auto refused = dial(io, port, role, channel_purpose::control);
    const auto* why = std::get_if<failure>(&refused);
    REQUIRE(why != nullptr);
    CHECK(why->reason == errc::bad_input);
  }
  const auto cluster = cluster_id("lockstep");
  const envelope env{cluster, {~std::uint64_t{0}, 1}, {1, 2}};
  const std::vector<wire_message> words{
      attach_msg{env, {}, {}, 1},
      commit_msg{env, {}, 1, 1},
      ping_msg{cluster, {1, 2}, {1, 1}},
      relay_parent_msg{cluster, {1, 2}, {~std::uint64_t{0}, 1}, 1, 0, 0, "", "", 0},
      hello_msg{cluster, 77, "evil", {1, 2}, {}},
      bucket_msg{env, 0, {}},
      relay_ask_msg{cluster, 2, {1, 2}, 1, 1, 0},  // for another
      credit_msg{env, 2, 0}};
  for (const auto& word : words) {
    INFO(name_of(word));
    auto control = dial(io, port, node_role::receiver, channel_purpose::control);
    auto bulk = dial(io, port, node_role::receiver, channel_purpose::bulk);
    REQUIRE(std::holds_alternative<std::shared_ptr<channel>>(control));
    REQUIRE(std::holds_alternative<std::shared_ptr<channel>>(bulk));
    const auto descriptor = std::get<std::shared_ptr<channel>>(control)->release();
    const auto bytes = encode_message(word);
    CHECK(::send(descriptor, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
          static_cast<ssize_t>(bytes.size()));
    CHECK(is_ended(descriptor));
    ::close(descriptor);
  }
  CHECK(g.sync().result == sync_result::ok);
  for (auto& [id, r] : g.all) CHECK(same(*r.rx, g.f.w));
}
