// A fleet that is reached through a directory alone: the contract of `trainer`, with files.
#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <memory>
#include <random>
#include <thread>

#include "actors/published_inbox.hpp"
#include "actors/published_trainer.hpp"
#include "tests/weights/test_files.hpp"
#include "weights/acknowledgement.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/host_checkpoint.hpp"
#include "weights/pull.hpp"
#include "weights/state_digest.hpp"

using namespace lockstep;
using namespace lockstep::test;
using namespace std::chrono_literals;

namespace {

layout model() {
  return layout({{"a.weight", dtype::bf16, {64, 32}}, {"b.bias", dtype::f32, {17}}});
}

weight_buffer random_state(unsigned seed) {
  weight_buffer out(model());
  std::mt19937 random(seed);
  for (std::size_t i = 0; i < out.shape().count(); ++i)
    for (auto& byte : out.tensor(i)) byte = static_cast<std::byte>(random());
  return out;
}

/// A step of training: some bytes of each tensor.
void step(weight_buffer& w, unsigned seed) {
  std::mt19937 random(seed);
  for (std::size_t i = 0; i < w.shape().count(); ++i)
    for (int n = 0; n < 5; ++n) w.tensor(i)[random() % w.tensor(i).size()] ^= std::byte{0x11};
}

void flip(const fs::path& checkpoint_file) {
  auto bytes = get(checkpoint_file);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  put(checkpoint_file, bytes);
}

/// A host that follows the stream by itself.
class host {
 public:
  host(const temp_dir& root, std::string name, const weight_buffer& base)
      : stream_(root / "stream"), dir_(root / name), name_(std::move(name)) {
    write_safetensors(dir_ / "model.safetensors", base);
  }
  ~host() { rest(); }

  void follow() {
    resting_ = false;
    thread_ = std::thread([this] {
      while (!resting_) {
        look();
        std::this_thread::sleep_for(5ms);
      }
    });
  }
  void rest() {
    resting_ = true;
    if (thread_.joinable()) thread_.join();
  }
  /// Whether there was something to pull and it was.
  bool look() {
    try {
      const auto newest = newest_published(stream_);
      if (!newest) return false;
      pull_options how;
      how.source = stream_;
      how.checkpoint = dir_;
      how.target = newest;
      how.name = name_;
      pull(how);
      return true;
    } catch (const error&) {
      return false;  // the publisher has been told
    }
  }

  bool holds(const weight_buffer& w) const {
    return contents(checkpoint::open(dir_)) == contents(w);
  }
  fs::path file() const { return dir_ / "model.safetensors"; }
  const fs::path& dir() const { return dir_; }
  const std::string& name() const { return name_; }

 private:
  fs::path stream_;
  fs::path dir_;
  std::string name_;
  std::atomic<bool> resting_ = true;
  std::thread thread_;
};

struct fleet {
  explicit fleet(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i)
      hosts.push_back(std::make_unique<host>(root, "host-" + std::to_string(i), w));
  }

  published_fleet_options options() const {
    published_fleet_options out;
    out.stream.out = root / "stream";
    for (const auto& h : hosts) out.receivers.push_back(h->name());
    out.ack_timeout = 20s;
    out.recovery_timeout = 20s;
    out.poll = 5ms;
    return out;
  }
  void follow() {
    for (auto& h : hosts) h->follow();
  }
  bool all_hold() {
    for (auto& h : hosts) h->rest();
    return std::all_of(hosts.begin(), hosts.end(), [&](const auto& h) { return h->holds(w); });
  }

  temp_dir root;
  weight_buffer w = random_state(1);
  std::vector<std::unique_ptr<host>> hosts;
};

const participant_report& line_of(const sync_report& r, const std::string& name) {
  for (const auto& p : r.participants)
    if (p.name == name) return p;
  throw std::runtime_error(name + " is not in the report");
}

}  // namespace

TEST_CASE("published fleet: every version is proven by every host before the next") {
  fleet f(3);
  auto encoding = GENERATE(published_encoding::xored, published_encoding::coded);
  auto options = f.options();
  options.stream.how.encoding = encoding;
  published_trainer t(f.w.shape(), options);
  CHECK(t.seed(f.w).participants.empty());
  f.follow();
  for (unsigned label = 1; label <= 5; ++label) {
    step(f.w, label);
    const auto r = t.sync(label, f.w).wait();
    REQUIRE(r.result == sync_result::ok);
    CHECK(r.participants.size() == 3);
    CHECK(r.target.number == label);
    CHECK(r.reseed_bytes == 0);
    for (const auto& p : r.participants) {
      CHECK(p.status == terminal::ok);
      CHECK(p.version == r.target);
    }
  }
  CHECK(t.version() == 5);
  CHECK(f.all_hold());
}

TEST_CASE("published fleet: the tensors may change while hosts are waited for") {
  fleet f(1);
  published_trainer t(f.w.shape(), f.options());
  t.seed(f.w);
  step(f.w, 1);
  const auto published = f.w.clone();
  auto ticket = t.sync(1, f.w);
  step(f.w, 2);
  CHECK_FALSE(ticket.done());
  f.hosts[0]->follow();
  CHECK(ticket.wait().result == sync_result::ok);
  f.hosts[0]->rest();
  CHECK(f.hosts[0]->holds(published));
}

TEST_CASE("published fleet: nothing is concluded while one host is silent, and then it is out") {
  fleet f(2);
  auto options = f.options();
  options.ack_timeout = 300ms;
  options.recovery_timeout = 100ms;
  published_trainer t(f.w.shape(), options);
  t.seed(f.w);
  f.hosts[0]->follow();
  step(f.w, 1);
  auto ticket = t.sync(1, f.w);
  CHECK_FALSE(ticket.wait_for(200ms));
  auto r = ticket.wait();
  CHECK(r.result == sync_result::degraded);
  CHECK(line_of(r, "host-1").status == terminal::timeout);
  CHECK_FALSE(line_of(r, "host-1").member);
  CHECK(line_of(r, "host-0").member);
  CHECK(t.absent() == std::vector<std::string>{"host-1"});

  // Not waited for any more; back as soon as it proves the newest version.
  step(f.w, 2);
  const auto before = std::chrono::steady_clock::now();
  r = t.sync(2, f.w).wait();
  CHECK(r.result == sync_result::ok);
  CHECK(std::chrono::steady_clock::now() - before < 250ms);
  CHECK(r.participants.size() == 1);
  REQUIRE(f.hosts[1]->look());
  f.hosts[1]->follow();
  step(f.w, 3);
  r = t.sync(3, f.w).wait();
  CHECK(r.result == sync_result::ok);
  CHECK(r.participants.size() == 2);
  CHECK(t.absent().empty());
  CHECK(f.all_hold());
}

TEST_CASE("published fleet: whose bytes rotted is given all weights, and only that host") {
  fleet f(2);
  published_trainer t(f.w.shape(), f.options());
  t.seed(f.w);
  f.follow();
  step(f.w, 1);
  REQUIRE(t.sync(1, f.w).wait().result == sync_result::ok);
  for (auto& h : f.hosts) h->rest();
  flip(f.hosts[1]->file());
  f.follow();
  step(f.w, 2);
  auto r = t.sync(2, f.w).wait();
  CHECK(r.result == sync_result::recovered);
  CHECK(line_of(r, "host-1").status == terminal::nack);
  CHECK(line_of(r, "host-1").reason == errc::wrong_base);
  CHECK(line_of(r, "host-1").reseeds == 1);
  CHECK(line_of(r, "host-1").member);
  CHECK(r.reseed_bytes > 0);
  CHECK(t.version() == 3);
  step(f.w, 3);
  r = t.sync(3, f.w).wait();
  CHECK(r.result == sync_result::ok);
  CHECK(r.reseed_bytes == 0);
  CHECK(r.participants.size() == 2);
  CHECK(f.all_hold());
  // The other one only moved its marker: its file is not the copy of a full version.
  CHECK_FALSE(has_index(f.hosts[0]->dir()));
  CHECK(has_index(f.hosts[1]->dir()));
}

TEST_CASE("published fleet: the next version does not wait for who failed to hold the one before") {
  fleet f(2);
  auto options = f.options();
  options.ack_timeout = 100ms;
  options.recovery_timeout = 600s;
  published_trainer t(f.w.shape(), options);
  t.seed(f.w);
  f.hosts[0]->follow();
  step(f.w, 1);
  const auto began = std::chrono::steady_clock::now();
  const auto first = t.sync(1, f.w);
  CHECK_FALSE(first.wait_for(400ms));
  step(f.w, 2);
  const auto second = t.sync(2, f.w);
  CHECK(first.wait().result == sync_result::degraded);
  CHECK_FALSE(line_of(first.wait(), "host-1").member);
  CHECK(second.wait().result == sync_result::ok);
  CHECK(std::chrono::steady_clock::now() - began < 60s);
  // It comes back all the same.
  f.hosts[1]->follow();
  step(f.w, 3);
  while (t.sync(3, f.w).wait().participants.size() < 2)
    REQUIRE(std::chrono::steady_clock::now() - began < 60s);
  CHECK(f.all_hold());
}

TEST_CASE("published fleet: without leave to reseed it stays out, by name") {
  fleet f(1);
  auto options = f.options();
  options.reseed = false;
  options.recovery_timeout = 50ms;
  published_trainer t(f.w.shape(), options);
  t.seed(f.w);
  flip(f.hosts[0]->file());
  f.follow();
  step(f.w, 1);
  const auto r = t.sync(1, f.w).wait();
  CHECK(r.result == sync_result::degraded);
  CHECK(r.reason == errc::wrong_base);
  CHECK(t.version() == 1);
  CHECK(newest_published(f.root / "stream") == 1u);
}

TEST_CASE("published fleet: who says it holds the version and does not is found out") {
  fleet f(1);
  auto options = f.options();
  options.recovery_timeout = 10s;
  published_trainer t(f.w.shape(), options);
  t.seed(f.w);
  step(f.w, 1);
  auto ticket = t.sync(1, f.w);
  const auto stream = f.root / "stream";
  const auto challenge = challenge_in(published_dir(stream, 1));
  REQUIRE(challenge);
  acknowledgement lie{1, *challenge, errc::none, {}, {}};
  SECTION("a proof of the base") {
    lie.proof = proof_of(checkpoint::open(f.hosts[0]->dir()), *challenge);
  }
  SECTION("no proof") {}
  write_acknowledgement(acknowledgements_of(stream), "host-0", lie);
  // All weights are published for it, and it comes back.
  for (int i = 0; i < 1000 && newest_published(stream) == 1u; ++i) std::this_thread::sleep_for(5ms);
  REQUIRE(newest_published(stream) == 2u);
  f.follow();
  const auto r = ticket.wait();
  CHECK(r.result == sync_result::recovered);
  CHECK(line_of(r, "host-0").reason == errc::false_ack);
  CHECK(f.all_hold());
}

TEST_CASE(
    "published fleet: an answer to another publication of the same number counts for nothing") {
  fleet f(1);
  auto options = f.options();
  options.ack_timeout = 200ms;
  options.recovery_timeout = 50ms;
  published_trainer t(f.w.shape(), options);
  t.seed(f.w);
  step(f.w, 1);
  acknowledgement stale{1, 12345, errc::none, {}, {}};
  SECTION("yes") {}
  SECTION("no") {
    stale.reason = errc::wrong_base;
  }
  write_acknowledgement(acknowledgements_of(f.root / "stream"), "host-0", stale);
  const auto r = t.sync(1, f.w).wait();
  CHECK(line_of(r, "host-0").status == terminal::timeout);
  CHECK(newest_published(f.root / "stream") == 1u);
}

TEST_CASE("published fleet: what is no acknowledgement is named in the report") {
  fleet f(1);
  auto options = f.options();
  options.ack_timeout = 200ms;
  options.recovery_timeout = 10ms;
  published_trainer t(f.w.shape(), options);
  t.seed(f.w);
  step(f.w, 1);
  const auto file = f.root / "stream/acks/host-0.json";
  const auto text = GENERATE(std::string(), std::string("[]"), std::string("{}"),
                             std::string("{\"version\":1}"), std::string(100'000, ' '));
  put(file, text);
  const auto r = t.sync(1, f.w).wait();
  CHECK(line_of(r, "host-0").status == terminal::timeout);
  CHECK_THAT(line_of(r, "host-0").detail, Catch::Matchers::Contains("host-0.json"));
}

TEST_CASE("published fleet: a trainer that is started again goes on where the last one was") {
  fleet f(2);
  {
    published_trainer t(f.w.shape(), f.options());
    t.seed(f.w);
    f.follow();
    step(f.w, 1);
    REQUIRE(t.sync(1, f.w).wait().result == sync_result::ok);
  }
  SECTION("with the same weights nothing is sent") {
    published_trainer t(f.w.shape(), f.options());
    CHECK(t.seed(f.w).participants.empty());
    CHECK(t.version() == 1);
    step(f.w, 2);
    CHECK(t.sync(2, f.w).wait().result == sync_result::ok);
  }
  SECTION("with others they are published whole, and hosts are waited for") {
    step(f.w, 7);
    published_trainer t(f.w.shape(), f.options());
    const auto r = t.seed(f.w, 7);
    CHECK(r.result == sync_result::ok);
    CHECK(r.participants.size() == 2);
    CHECK(t.version() == 2);
    step(f.w, 8);
    CHECK(t.sync(8, f.w).wait().result == sync_result::ok);
  }
  CHECK(f.all_hold());
}

TEST_CASE("published fleet: a trainer that was stopped while it waited is succeeded") {
  fleet f(1);
  step(f.w, 0);
  const auto base = random_state(1);
  {
    published_trainer t(f.w.shape(), f.options());
    t.seed(base);
    auto ticket = t.sync(1, f.w);
    t.stop();
    const auto r = ticket.wait();
    CHECK(r.result == sync_result::aborted);
    CHECK(r.reason == errc::shut_down);
    CHECK_FALSE(t.is_running());
    CHECK_THROWS_AS(t.sync(2, f.w), error);
  }
  published_trainer t(f.w.shape(), f.options());
  t.seed(f.w);
  CHECK(t.version() == 1);
  f.follow();
  step(f.w, 2);
  CHECK(t.sync(2, f.w).wait().result == sync_result::ok);
  CHECK(f.all_hold());
}

TEST_CASE("published fleet: a version that cannot be read back ends the trainer's run") {
  fleet f(1);
  published_trainer t(f.w.shape(), f.options());
  t.seed(f.w);
  step(f.w, 1);
  auto ticket = t.sync(1, f.w);
  f.hosts[0]->look();
  f.hosts[0]->rest();
  // Acknowledged, and gone before the snapshot is advanced, or after: both are one outcome.
  fs::remove(published_dir(f.root / "stream", 1) / index_name);
  const auto r = ticket.wait();
  if (r.result == sync_result::degraded) {
    CHECK(r.reason == errc::encode_failed);
    CHECK_FALSE(t.is_running());
  } else {
    CHECK(r.result == sync_result::ok);
  }
}

TEST_CASE("published fleet: what every host in the view has passed may go") {
  fleet f(2);
  auto options = f.options();
  options.stream.full_every = 3;
  options.stream.keep = 2;
  options.ack_timeout = 20s;
  published_trainer t(f.w.shape(), options);
  t.seed(f.w);
  f.follow();
  for (unsigned label = 1; label <= 8; ++label) {
    step(f.w, label);
    REQUIRE(t.sync(label, f.w).wait().result == sync_result::ok);
  }
  CHECK(published_versions(f.root / "stream") == std::vector<std::uint64_t>{6, 7, 8});
  CHECK(f.all_hold());
}

TEST_CASE("published fleet: names that could leave the directory, or are twice, are refused") {
  fleet f(1);
  auto options = f.options();
  for (const auto& bad : {"", ".", "..", "a/b", "../x", ".hidden", "a b", "\n", "é"}) {
    CHECK_FALSE(is_host_name(bad));
    options.receivers = {bad};
    check_refused([&] { published_trainer(f.w.shape(), options); }, errc::bad_input, {"name"});
  }
  CHECK_FALSE(is_host_name(std::string(65, 'a')));
  CHECK(is_host_name(std::string(64, 'a')));
  options.receivers = {"a", "a"};
  check_refused([&] { published_trainer(f.w.shape(), options); }, errc::bad_input,
                {"'a'", "twice"});
}

TEST_CASE("acknowledgements: over a connection they say what they say in a file, and no more") {
  const acknowledgement holds{7, 0x1234567890abcdef, errc::none, "", {1, 2}};
  const acknowledgement fails{8, 1, errc::wrong_base, std::string(10'000, 'x'), {}};
  for (const auto& what : {holds, fails}) {
    const auto said = acknowledgement_in(reply_of(9, what));
    REQUIRE(said);
    CHECK(said->version == what.version);
    CHECK(said->challenge == what.challenge);
    CHECK(said->reason == what.reason);
    CHECK(said->detail == what.detail.substr(0, reply_detail_max));
    CHECK(said->proof == what.proof);
  }
  auto other = reply_of(9, holds);
  other.kind = reply_kind::vote_yes;
  CHECK_FALSE(acknowledgement_in(other));
  other = reply_of(9, holds);
  other.round = 2;
  CHECK_FALSE(acknowledgement_in(other));
  // Holds it, and says why it does not; or does not, and does not say why.
  other = reply_of(9, holds);
  other.reason = errc::torn;
  CHECK_FALSE(acknowledgement_in(other));
  other = reply_of(9, fails);
  other.reason = errc::none;
  CHECK_FALSE(acknowledgement_in(other));
}

TEST_CASE("acknowledgements: said and read, and every cut of one is none") {
  const temp_dir root;
  CHECK_FALSE(read_acknowledgement(root.path(), "a"));
  const acknowledgement said{
      7, 0xfedcba9876543210, errc::wrong_base, "m.safetensors: \xff\n", {1, ~std::uint64_t{0}}};
  write_acknowledgement(root.path(), "a", said);
  const auto read = read_acknowledgement(root.path(), "a");
  REQUIRE(read);
  CHECK(read->version == 7);
  CHECK(read->challenge == said.challenge);
  CHECK(read->reason == errc::wrong_base);
  CHECK(read->proof == said.proof);
  const auto whole = get(root / "a.json");
  for (std::size_t n = 0; n < whole.size(); ++n) {
    put(root / "a.json", whole.substr(0, n));
    CHECK_THROWS_AS(read_acknowledgement(root.path(), "a"), error);
  }
}
