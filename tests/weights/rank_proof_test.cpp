#include "weights/rank_proof.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "rank_states.hpp"
#include "test_files.hpp"
#include "weights/acknowledgement.hpp"
#include "weights/bucket_codec.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/published.hpp"
#include "weights/rank_part.hpp"
#include "weights/rank_publisher.hpp"
#include "weights/state_digest.hpp"
#include "weights/stream_owner.hpp"

using namespace lockstep;
using namespace lockstep::test;
using nlohmann::ordered_json;

namespace {

constexpr const char* nonce = "0123456789abcdef";
constexpr std::uint64_t challenge = 0x1234;

const layout nothing(std::vector<tensor_spec>{});

digest sum_of(const digest& a, const digest& b) {
  return {a.lane0 + b.lane0, a.lane1 + b.lane1};
}

digest target_of(const weight_buffer& weights, std::uint64_t seed = challenge) {
  return digest_of(seed, views_of(weights));
}

version_options asking() {
  return {false, {{std::string(own_key::challenge), challenge_text(challenge)}}};
}

template <class Condition>
void await(Condition holds) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!holds() && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  REQUIRE(holds());
}

/// The file in `dir` whose name begins so; empty if there is none yet.
fs::path file_in(const fs::path& dir, const std::string& prefix) {
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(dir, missing))
    if (entry.path().extension() == ".json" && entry.path().filename().native().starts_with(prefix))
      return entry.path();
  return {};
}

std::string said_by(const std::function<void()>& action) {
  try {
    action();
    return {};
  } catch (const error& e) {
    return std::string(to_string(e.code())) + ": " + e.what();
  }
}

/// A part as far as merging and proving look at it.
rank_part part_of(std::uint32_t rank, const weight_buffer& weights) {
  rank_part out{nonce, rank, {}, {}};
  const auto digests = tensor_digests(weights.shape(), reader_of(weights));
  for (std::size_t i = 0; i < weights.shape().count(); ++i)
    out.tensors.push_back({weights.shape()[i], std::string(32, '0'), digests[i]});
  return out;
}

/// Rank 0 in a thread, for rank 1 to be played by the test: it has no tensor.
class leading {
 public:
  leading() {
    running_ = std::async(std::launch::async, [this] {
      return said_by([&] {
        rank_publisher(options_of(dir.path(), 0))
            .add(1, 0, source_of(before), source_of(after), asking());
      });
    });
    await([&] { return stands(staging) && read_plan(staging).has_value(); });
    plan = *read_plan(staging);
    part.plan = plan.nonce;
    write_part(staging / (rank_prefix(1, plan.nonce) + "t.json"), part);
    await([&] { return read_order(staging, plan.nonce, 1).has_value(); });
  }
  std::string share() const { return share_prefix(1, plan.nonce); }
  std::string end() { return running_.get(); }

  temp_dir dir;
  const fs::path staging = rank_staging(dir.path());
  const weight_buffer before = filled(first, 1), after = filled(first, 2);
  rank_plan plan;
  rank_part part{"", 1, {}, {}};

 private:
  std::future<std::string> running_;
};

/// Rank 1 in a thread, for rank 0 to be played by the test.
class led {
 public:
  explicit led(std::chrono::milliseconds patience = std::chrono::milliseconds(2000)) {
    write_plan(staging, plan);
    running_ = std::async(std::launch::async, [this, patience] {
      auto how = options_of(dir.path(), 1);
      how.patience = patience;
      return said_by([&] {
        auto target = source_of(after);
        target.tensors = [this, whole = target.tensors](std::size_t i) {
          if (cut) throw error(errc::bad_input, "its file was cut short");
          return whole(i);
        };
        rank_publisher(how).add(1, 0, source_of(before), target);
      });
    });
    await_part();
  }
  void await_part() const {
    await([&] { return !file_in(staging, rank_prefix(1, plan.nonce)).empty(); });
  }
  void order(const rank_order& what) const { write_order(staging, plan.nonce, 1, what); }
  fs::path share() const { return file_in(staging, share_prefix(1, plan.nonce)); }
  /// Where rank 1 will put it: its part's name tells its process's tag.
  fs::path share_to_come() const {
    const auto name = file_in(staging, rank_prefix(1, plan.nonce)).filename().string();
    return staging / (share_prefix(1, plan.nonce) + name.substr(rank_prefix(1, nonce).size()));
  }
  void publish() const {
    put(published_dir(dir.path(), 1) / index_name,
        ordered_json{{"metadata", {{own_key::rank_targets, std::string(32, '0') + "," + state}}},
                     {"weight_map", ordered_json::object()}}
            .dump());
  }
  std::string end() { return running_.get(); }

  temp_dir dir;
  const fs::path staging = rank_staging(dir.path());
  const weight_buffer before = filled(second, 3), after = filled(second, 4);
  const std::string state = state_digest(second, tensor_digests(second, reader_of(after)));
  rank_plan plan{nonce, 1, 0, "run", false, {}, {}, 2};
  std::atomic<bool> cut = false;  ///< what rank 1 reads

 private:
  std::future<std::string> running_;
};

}  // namespace

TEST_CASE("an order is read as it was written, and nothing else is one", "[ranks]") {
  temp_dir dir;
  const auto file = dir / (std::string("order-00001-") + nonce + ".json");
  const auto read = [&] { return read_order(dir.path(), nonce, 1); };
  CHECK_FALSE(read());
  for (const rank_order& order :
       {rank_order{"part", challenge, {0, 2, std::nullopt, 5, 999'999}}, {"", 0, {}}}) {
    write_order(dir.path(), nonce, 1, order);
    CHECK(read() == order);
    CHECK_FALSE(read_order(dir.path(), nonce, 2));
    CHECK_FALSE(read_order(dir.path(), "fedcba9876543210", 1));
  }
  write_order(dir.path(), nonce, 1, {"part", challenge, {0, 2}});
  const auto said = ordered_json::parse(get(file));
  const auto none = [&](const char* key, const ordered_json& value) {
    auto other = said;
    other[key] = value;
    INFO(other.dump().substr(0, 80));
    put(file, other.dump());
    CHECK_FALSE(read());
  };
  none("part", 1);
  none("part", {"part"});
  none("part", ordered_json::array());
  none("challenge", "1234");
  none("challenge", ordered_json::object());
  none("numbers", "0");
  none("numbers", {0, 2});
  none("numbers", {"0", {"2"}});
  none("numbers", {"0", ordered_json::array()});
  none("numbers", {"0", ordered_json::object()});
  none("numbers", {"0", "-2"});
  none("numbers", {"0", "2 "});
  none("numbers", {"0", "4294967296"});
  none("numbers", {"0", "1000000"});
  none("numbers", {"2", "2"});
  none("numbers", {"2", "", "1"});
  none("more", said["challenge"]);
  none("part", {"more"});
  for (const std::string text : {"", "{", "[]", R"("order")"}) {
    put(file, text);
    CHECK_FALSE(read());
  }
  // As many as there can be tensors, and no more.
  auto many = said;
  many["numbers"] = std::vector<std::string>(1'000'000);
  put(file, many.dump());
  CHECK(read()->numbers.size() == 1'000'000);
  many["numbers"].push_back("");
  put(file, many.dump());
  CHECK_FALSE(read());
  put(file, said.dump() + std::string(part_bytes_max - said.dump().size(), ' '));
  CHECK(read());
  put(file, get(file) + ' ');
  CHECK_FALSE(read());
}

TEST_CASE("an order tells each tensor's number in the whole, once for all ranks", "[ranks]") {
  const layout tied({first[1], second[0]});
  const auto a = filled(first, 1), none = filled(nothing, 1);
  auto b = filled(tied, 2);
  std::ranges::copy(a.tensor(1), b.tensor(*tied.find("c")).begin());
  const std::vector<rank_part> parts{part_of(0, a), part_of(1, b), part_of(2, none)};
  const auto whole = merge_parts("dir", parts);
  const auto orders = orders_for(parts, whole, challenge);
  REQUIRE(orders.size() == 3);
  using numbers = std::vector<std::optional<std::uint32_t>>;
  CHECK(orders[0] == rank_order{target_digest(parts[0]), challenge, numbers{0, 2}});
  CHECK(orders[1] == rank_order{target_digest(parts[1]), challenge, numbers{1, std::nullopt}});
  CHECK(orders[2] == rank_order{target_digest(parts[2]), challenge, numbers{}});

  weight_buffer together(whole.shape);
  std::ranges::copy(a.tensor(0), together.tensor(0).begin());
  std::ranges::copy(b.tensor(0), together.tensor(1).begin());
  std::ranges::copy(a.tensor(1), together.tensor(2).begin());
  digest sum;
  const std::vector<const weight_buffer*> held{&a, &b, &none};
  for (std::size_t r = 0; r < held.size(); ++r) {
    std::size_t read = 0;
    auto source = source_of(*held[r]);
    source.done = [&](std::size_t tensor, std::uint64_t begin, std::uint64_t end) {
      CHECK((tensor == read++ && begin == 0 && end == held[r]->shape().bytes(tensor)));
    };
    sum = sum_of(sum, share_of(orders[r], source));
    CHECK(read == held[r]->shape().count());
  }
  CHECK(sum == target_of(together));
}

TEST_CASE("a share is read as it was written, and nothing else is one", "[ranks]") {
  temp_dir dir;
  const auto file = dir / "share.json";
  write_share(file, {0x0123456789abcdef, 7});
  CHECK(read_share(file) == digest{0x0123456789abcdef, 7});
  for (const std::string text : {"", "{}", R"({"share":"x"})", R"({"share":7})", R"(["share"])"}) {
    put(file, text);
    check_refused([&] { read_share(file); }, errc::bad_input, {file.string()});
  }
  put(file, R"({"share":")" + std::string(5000, 'a') + R"("})");
  check_refused([&] { read_share(file); }, errc::bad_input, {"the limit is 4096"});
}

TEST_CASE("a seal is of one proof under one challenge", "[ranks]") {
  const digest proof{5, 6};
  const auto seal = seal_of(challenge, proof);
  CHECK(seal == published_digest(published_checksum::xxh3_128,
                                 bytes(challenge_text(challenge) + to_string(proof))));
  for (const auto& other :
       {seal_of(challenge + 1, proof), seal_of(challenge, {6, 5}), seal_of(challenge, {5, 7})})
    CHECK(other != seal);
}

TEST_CASE("an index says the digests of as many ranks, or of none", "[ranks]") {
  using digests = std::vector<std::string>;
  CHECK(rank_digests("a", 1) == digests{"a"});
  CHECK(rank_digests("a,b", 2) == digests{"a", "b"});
  CHECK(rank_digests("a,", 2) == digests{"a", ""});
  CHECK(rank_digests("", 1).empty());
  CHECK(rank_digests("a,b", 1).empty());
  CHECK(rank_digests("a,b", 3).empty());
}

TEST_CASE("ranks seal what a host must prove, which none of them knows", "[ranks]") {
  temp_dir dir;
  const auto a0 = filled(first, 1), a1 = filled(first, 2);
  const auto b0 = filled(second, 3), b1 = filled(second, 4);
  const auto none = filled(nothing, 1);
  // Rank 1 has no tensor, and rank 3 those of rank 0.
  CHECK(publish(dir / "stream", {{&a0, &a1}, {&none, &none}, {&b0, &b1}, {&a0, &a1}}, 0,
                asking()) == std::vector<std::string>(4));
  weight_buffer whole(layout({first[0], second[0], first[1], second[1], second[2]}));
  for (std::size_t i = 0; i < whole.shape().count(); ++i) {
    const auto& name = whole.shape()[i].name;
    const auto from =
        first.find(name) ? a1.tensor(*first.find(name)) : b1.tensor(*second.find(name));
    std::ranges::copy(from, whole.tensor(i).begin());
  }
  const auto version = published_dir(dir / "stream", 1);
  CHECK(metadata_in(version, own_key::proof_seal) == seal_of(challenge, target_of(whole)));
  CHECK(challenge_in(version) == challenge);
  const auto each = rank_digests(metadata_in(version, own_key::rank_targets), 4);
  REQUIRE(each.size() == 4);
  CHECK(each[1] == state_digest(nothing, {}));
  CHECK(each[3] == each[0]);
  CHECK_FALSE(stands(rank_staging(dir / "stream")));
}

TEST_CASE("a version that nobody waits for has no seal", "[ranks]") {
  temp_dir dir;
  const auto a0 = filled(first, 1), a1 = filled(first, 2), none = filled(nothing, 1);
  CHECK(publish(dir / "stream", {{&none, &none}, {&a0, &a1}}) == std::vector<std::string>(2));
  const auto index = read_index(published_dir(dir / "stream", 1));
  CHECK_FALSE(index.metadata.contains(std::string(own_key::proof_seal)));
  CHECK(index.shards().size() == 1);
}

TEST_CASE("ranks of which none has a tensor are refused", "[ranks]") {
  temp_dir dir;
  const auto none = filled(nothing, 1);
  for (const auto& said : publish(dir / "stream", {{&none, &none}, {&none, &none}}))
    CHECK_THAT(said, Catch::Matchers::Contains("no rank has a tensor"));
  CHECK_FALSE(has_index(published_dir(dir / "stream", 1)));
}

TEST_CASE("rank 0 takes what is a share, and nothing else", "[ranks]") {
  leading lead;
  const auto order = read_order(lead.staging, lead.plan.nonce, 1);
  CHECK(*order == rank_order{target_digest(lead.part), challenge, {}});
  const auto index = published_dir(lead.dir.path(), 1);
  const auto seal = [&](const digest& share) {
    return seal_of(challenge, sum_of(target_of(lead.after), share));
  };
  SECTION("with what it has itself") {
    // One that is not whole yet counts when it is.
    put(lead.staging / (lead.share() + "a.json.tmp"), "{");
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    write_share(lead.staging / (lead.share() + "t.json"), {5, 6});
    CHECK(lead.end().empty());
    CHECK(metadata_in(index, own_key::proof_seal) == seal({5, 6}));
  }
  SECTION("or says why not, and asks for nothing more") {
    put(lead.staging / (lead.share() + "t.json"), R"({"share":"x"})");
    const auto said = lead.end();
    CHECK_THAT(said, Catch::Matchers::Contains("bad_input: ") &&
                         Catch::Matchers::Contains("is no share of a proof"));
    const auto refusal = read_refusal(lead.staging);
    REQUIRE(refusal);
    CHECK(refusal->plan == lead.plan.nonce);
    CHECK_THAT(said, Catch::Matchers::EndsWith(refusal->why));
    CHECK_FALSE(read_order(lead.staging, lead.plan.nonce, 1));
    CHECK(file_in(lead.staging, rank_prefix(0, lead.plan.nonce)).empty());
    CHECK_FALSE(has_index(index));
  }
  SECTION("or names who gave none") {
    CHECK_THAT(lead.end(), Catch::Matchers::Contains("timeout: ") &&
                               Catch::Matchers::Contains("nothing came from rank 1"));
    CHECK_FALSE(stands(lead.staging));
    CHECK_FALSE(has_index(index));
  }
}

TEST_CASE("a rank gives its share for its own part, of each plan", "[ranks]") {
  led rank;
  const rank_order right{rank.state, challenge, {0, 1, 2}};
  for (const rank_order& other : {rank_order{std::string(32, '0'), challenge, {0, 1, 2}},
                                  {rank.state, challenge, {0, 1}},
                                  {rank.state, challenge, {0, 1, 2, 3}}}) {
    rank.order(other);
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    CHECK(rank.share().empty());
  }
  for (const char* next : {"fedcba9876543210", "0011223344556677"}) {
    rank.order(right);
    await([&] { return !rank.share().empty(); });
    CHECK(read_share(rank.share()) == target_of(rank.after));
    rank.plan.nonce = next;
    begin_staging(rank.dir.path(), rank.plan);
    rank.await_part();
  }
  rank.publish();
  CHECK(rank.end().empty());
}

TEST_CASE("a rank waits as long after its share as after its part", "[ranks]") {
  led rank(std::chrono::milliseconds(2000));
  std::this_thread::sleep_for(std::chrono::milliseconds(1300));
  rank.order({rank.state, challenge, {0, 1, 2}});
  await([&] { return !rank.share().empty(); });
  SECTION("and is told of the version then") {
    std::this_thread::sleep_for(std::chrono::milliseconds(1300));
    rank.publish();
    CHECK(rank.end().empty());
  }
  SECTION("and no longer") {
    CHECK_THAT(rank.end(), Catch::Matchers::Contains("timeout: "));
  }
}

TEST_CASE("a share that cannot be written is told, unless nobody wants it any more", "[ranks]") {
  led rank(std::chrono::milliseconds(1000));
  fs::create_directories(rank.share_to_come() += ".tmp");
  SECTION("told") {
    rank.order({rank.state, challenge, {0, 1, 2}});
    CHECK_THAT(rank.end(), Catch::Matchers::Contains("unwritable: ") &&
                               Catch::Matchers::Contains("share-00001-"));
  }
  SECTION("what is wrong with the weights is told in any case") {
    rank.cut = true;
    fs::remove(rank.staging / "plan.json");
    rank.order({rank.state, challenge, {0, 1, 2}});
    CHECK_THAT(rank.end(), Catch::Matchers::Contains("bad_input: its file was cut short"));
  }
  SECTION("not told") {
    fs::remove(rank.staging / "plan.json");
    rank.order({rank.state, challenge, {0, 1, 2}});
    CHECK_THAT(rank.end(), Catch::Matchers::Contains("timeout: ") &&
                               Catch::Matchers::Contains("weight_v000001"));
  }
}
