#include "weights/rank_publisher.hpp"

#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "rank_states.hpp"
#include "test_files.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/published_shards.hpp"
#include "weights/rank_part.hpp"
#include "weights/state_digest.hpp"
#include "weights/stream_owner.hpp"
#include "weights/weight_stream.hpp"

using namespace lockstep;
using namespace lockstep::test;
using nlohmann::ordered_json;

namespace {

void check_said(const std::string& what, const std::vector<std::string>& parts) {
  for (const auto& part : parts) CHECK_THAT(what, Catch::Matchers::Contains(part));
}

// A part of rank 1 to a plan, with its shard, as that rank would leave it.
class left_part {
 public:
  explicit left_part(bool full = false, const layout& shape = second) {
    plan.nonce = "0123456789abcdef";
    plan.version = 3;
    plan.base_version = 2;
    plan.full = full;
    plan.ranks = 2;
    const auto base = filled(shape, 1);
    const auto target = filled(shape, 2);
    std::vector<std::string> digests(shape.count());
    publish_options how;
    how.digests = &digests;
    const tensor_reader old = reader_of(base);
    const tensor_reader fresh = reader_of(target);
    auto shards = full ? version_shards(shape, fresh, how)
                       : version_shards(dir.path(), shape, old, fresh, how);
    rank_part part{plan.nonce, 1, {}, {}};
    for (std::size_t s = 0; s < shards.count(); ++s) {
      shards.write(s, dir / shard);
      part.shards.push_back({shard, shards.names(s)});
    }
    const auto& before = shards.finish();
    for (std::size_t i = 0; i < shape.count(); ++i)
      part.tensors.push_back({shape[i], full ? std::string() : before[i], digests[i]});
    write_part(file, part);
    said = ordered_json::parse(get(file));
  }

  rank_part read() const { return read_part(file, plan, 1); }
  void refused(const ordered_json& text, const std::vector<std::string>& parts,
               errc code = errc::bad_input) {
    put(file, text.dump());
    check_refused([&] { read(); }, code, parts);
  }

  temp_dir dir;
  const std::string shard = "rank-00001-0123456789abcdef-t-00000.safetensors";
  const fs::path file = dir / "rank-00001-0123456789abcdef-t.json";
  rank_plan plan;
  ordered_json said;
};

}  // namespace

TEST_CASE("ranks publish together what one process publishes", "[ranks]") {
  temp_dir dir;
  const auto together = layout({first[0], second[0], first[1], second[1], second[2]});
  const auto a0 = filled(first, 1), a1 = filled(first, 2), a2 = filled(first, 3);
  const auto b0 = filled(second, 4), b1 = filled(second, 5);
  // The second rank's tensors stay what they were in version 2.
  CHECK(publish(dir / "stream", {{&a0, &a1, &a2}, {&b0, &b1, &b1}}) ==
        std::vector<std::string>{"", ""});
  const auto whole = [&](const weight_buffer& a, const weight_buffer& b) {
    weight_buffer out(together);
    for (std::size_t i = 0; i < together.count(); ++i) {
      const auto in_a = first.find(together[i].name);
      const auto bytes = in_a ? a.tensor(*in_a) : b.tensor(*second.find(together[i].name));
      std::copy(bytes.begin(), bytes.end(), out.tensor(i).begin());
    }
    return out;
  };
  auto state = whole(a0, b0);
  std::vector<weight_buffer> states;
  states.push_back(whole(a1, b1));
  states.push_back(whole(a2, b1));
  for (std::uint64_t v = 1; v <= 2; ++v) {
    const auto delta = published_delta::open(published_dir(dir / "stream", v), together);
    delta.apply(state);
    CHECK(contents(state) == contents(states[v - 1]));
    const auto own = tensor_digests(together, reader_of(state));
    CHECK(delta.metadata().at(std::string(own_key::target)) == state_digest(together, own));
  }
  const auto index = read_index(published_dir(dir / "stream", 2));
  CHECK(index.shards().size() == 1);
  CHECK(index.shards().begin()->first == "model-00000-of-00001.safetensors");
  CHECK_FALSE(stands(rank_staging(dir / "stream")));
}

TEST_CASE("a tensor that is the same at several ranks is published once", "[ranks]") {
  temp_dir dir;
  // All of a shard, some of one, and a tensor that does not change.
  const layout tied({first[0], second[0], second[1]});
  const layout together({first[0], second[0], first[1], second[1]});
  const auto a0 = filled(first, 1), a1 = filled(first, 2), a2 = filled(first, 3);
  auto b0 = filled(tied, 4), b1 = filled(tied, 5), b2 = filled(tied, 6);
  const auto tie = [&](weight_buffer& to, const weight_buffer& from) {
    const auto bytes = from.tensor(*first.find("a"));
    std::copy(bytes.begin(), bytes.end(), to.tensor(*tied.find("a")).begin());
  };
  tie(b0, a0), tie(b1, a1), tie(b2, a2);
  const auto full_every = GENERATE(0u, 2u);
  CHECK(publish(dir / "stream", {{&a0, &a1, &a2}, {&b0, &b1, &b2}, {&a0, &a1, &a2}}, full_every) ==
        std::vector<std::string>{"", "", ""});
  weight_buffer state(together);
  const auto take = [&](const weight_buffer& from, const layout& shape) {
    for (std::size_t i = 0; i < shape.count(); ++i) {
      const auto bytes = from.tensor(i);
      std::copy(bytes.begin(), bytes.end(), state.tensor(*together.find(shape[i].name)).begin());
    }
  };
  take(a2, first), take(b2, tied);
  const auto wanted = contents(state);
  take(a0, first), take(b0, tied);
  const auto stream = weight_stream::open(dir / "stream", together);
  for (std::size_t v = 0; v < 2; ++v) stream.load(v, state);
  CHECK(contents(state) == wanted);
  for (std::uint64_t v = 1; v <= 2; ++v) {
    const auto index = read_index(published_dir(dir / "stream", v));
    CHECK(index.shards().size() == 2);
    CHECK(index.shards().rbegin()->first == "model-00001-of-00002.safetensors");
  }
  CHECK_FALSE(stands(rank_staging(dir / "stream")));
}

TEST_CASE("ranks whose tensors do not make one model are refused", "[ranks]") {
  temp_dir dir;
  const auto a0 = filled(first, 1), a1 = filled(first, 2);
  SECTION("a tensor that two have") {
    const layout both({{"b", dtype::u8, {5}}, {"c", dtype::f32, {2}}});
    const auto b0 = filled(both, 3), b1 = filled(both, 4);
    const auto said = publish(dir / "stream", {{&a0, &a1}, {&b0, &b1}});
    check_said(said[0],
               {"wrong_layout: ", "weight_v000001", "tensor 'c' is rank 0's and rank 1's"});
    check_said(said[1], {"bad_input: ", "weight_v000001", "tensor 'c' is rank 0's and rank 1's"});
  }
  SECTION("others than before, in a full version, which has no base") {
    const auto b0 = filled(second, 3), b1 = filled(second, 4);
    const auto check = [&](const layout& shape, const std::string& what) {
      const auto other = filled(shape, 5);
      const auto said = publish(dir / "stream", {{&a0, &a1, &a0}, {&b0, &b1, &other}}, 2);
      check_said(said[0], {"wrong_layout: ", "weight_v000002", what});
      CHECK_FALSE(has_index(published_dir(dir / "stream", 2)));
      fs::remove_all(dir / "stream");
    };
    check(layout({second[0], second[1]}), "tensor 'e' was in the version before, and is no rank's");
    check(layout({second[0], second[1], {"e", dtype::f64, {0, 3}}}),
          "tensor 'e' has another dtype");
    check(layout({second[0], second[1], second[2], {"z", dtype::u8, {1}}}),
          "tensor 'z' was not in");
  }
  SECTION("a base that the stream does not hold, by rank") {
    const auto b0 = filled(second, 3), b1 = filled(second, 4), b2 = filled(second, 5);
    const auto said = publish(dir / "stream", {{&a0, &a1, &a0}, {&b0, &b1, &b2}});
    CHECK(said == std::vector<std::string>{"", ""});
    auto running = std::async(std::launch::async, [&] {
      rank_publisher(options_of(dir / "stream", 1)).add(3, 2, source_of(b1), source_of(b0));
    });
    rank_publisher lead(options_of(dir / "stream", 0));
    check_refused([&] { lead.add(3, 2, source_of(a0), source_of(a1)); }, errc::wrong_base,
                  {"weight_v000002", "rank 1 would start from"});
    check_refused([&] { running.get(); }, errc::bad_input,
                  {"weight_v000003", "rank 0 says", "rank 1 would start from"});
    CHECK_FALSE(has_index(published_dir(dir / "stream", 3)));
  }
  CHECK_FALSE(stands(rank_staging(dir / "stream")));
}

TEST_CASE("a rank says no to a rank that there cannot be", "[ranks]") {
  temp_dir dir;
  check_refused([&] { rank_publisher(options_of(dir.path(), 2)); }, errc::bad_input,
                {"rank 2 of 2"});
  check_refused([&] { rank_publisher(options_of(dir.path(), 0, 0)); }, errc::bad_input, {"of 0"});
  check_refused([&] { rank_publisher(options_of(dir.path(), 0, ranks_max + 1)); }, errc::bad_input,
                {"4096"});
}

TEST_CASE("a rank leaves nothing where rank 0 has no more use for it", "[ranks]") {
  temp_dir dir;
  const auto staging = rank_staging(dir.path());
  const auto b0 = filled(second, 3), b1 = filled(second, 4);
  const rank_plan plan{fresh_nonce(), 1, 0, "run", false, {}, {}, 2};
  write_plan(staging, plan);
  auto running = std::async(std::launch::async, [&] {
    return rank_publisher(options_of(dir.path(), 1)).add(1, 0, source_of(b0), source_of(b1));
  });
  const auto has_part = [&] {
    for (const auto& file : files_in(staging))
      if (file.extension() == ".json" && file.filename().string().starts_with("rank-00001-"))
        return true;
    return false;
  };
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!has_part() && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  REQUIRE(has_part());
  // Published with what another process of that rank did, and left.
  fs::remove(staging / "plan.json");
  const auto own = state_digest(second, tensor_digests(second, reader_of(b1)));
  put(published_dir(dir.path(), 1) / index_name,
      ordered_json{{"metadata", {{own_key::rank_targets, std::string(32, '0') + "," + own}}},
                   {"weight_map", ordered_json::object()}}
          .dump());
  CHECK_FALSE(running.get().there);
  CHECK_FALSE(stands(staging));
}

TEST_CASE("a plan is read as it was written, and nothing else is one", "[ranks]") {
  temp_dir dir;
  CHECK_FALSE(read_plan(dir.path()));
  const rank_plan plan{"0123456789abcdef",          7, 6, "run", true, published_encoding::coded,
                       published_checksum::adler32, 5};
  write_plan(dir.path(), plan);
  const auto read = read_plan(dir.path());
  REQUIRE(read);
  CHECK(read->nonce == plan.nonce);
  CHECK(std::pair(read->version, read->base_version) ==
        std::pair<std::uint64_t, std::uint64_t>(7, 6));
  CHECK((read->run == "run" && read->full && read->ranks == 5));
  CHECK((read->encoding == plan.encoding && read->checksum == plan.checksum));
  const auto said = ordered_json::parse(get(dir / "plan.json"));
  for (const auto& [key, value] :
       std::vector<std::pair<std::string, ordered_json>>{{"plan", "../../etc/passwd"},
                                                         {"plan", "0123"},
                                                         {"version", "x"},
                                                         {"base_version", 6},
                                                         {"kind", "some"},
                                                         {"delta_encoding", "rle"},
                                                         {"checksum_format", "md5"},
                                                         {"ranks", "-1"}}) {
    INFO(key);
    auto other = said;
    other[key] = value;
    put(dir / "plan.json", other.dump());
    check_refused([&] { read_plan(dir.path()); }, errc::bad_input, {"plan.json", "is no plan"});
  }
  put(dir / "plan.json", std::string(65 << 10, ' '));
  check_refused([&] { read_plan(dir.path()); }, errc::bad_input, {"the limit is 65536"});
}

TEST_CASE("a rank's part is read as it was written", "[ranks]") {
  for (const bool full : {false, true}) {
    left_part left(full);
    const auto part = left.read();
    CHECK(part.rank == 1);
    REQUIRE(part.tensors.size() == 3);
    CHECK(part.tensors[2].spec == second[2]);
    CHECK(part.tensors[0].base.size() == (full ? 0 : 32));
    REQUIRE(part.shards.size() == 1);
    // An empty tensor never changes, and is in every full version.
    CHECK(part.shards[0].tensors.size() == (full ? 3 : 2));
    const auto whole = merge_parts(left.dir.path(), {rank_part{}, part});
    CHECK(whole.shape == second);
    CHECK(state_digest(whole.shape, whole.target) == target_digest(part));
  }
}

TEST_CASE("nothing in a rank's part is believed", "[ranks]") {
  left_part left;
  const auto change = [&](const std::vector<std::string>& parts, const auto& how) {
    auto other = left.said;
    how(other);
    left.refused(other, parts);
  };
  SECTION("whose it is") {
    change({"is not rank 1's part"}, [](auto& j) { j["plan"] = "fedcba9876543210"; });
    change({"is not rank 1's part"}, [](auto& j) { j["rank"] = "2"; });
    change({"unexpected number"}, [](auto& j) { j["rank"] = 1; });
    change({"is not rank 1's part"}, [](auto& j) { j.erase("plan"); });
  }
  SECTION("its form") {
    change({"unexpected string"}, [](auto& j) { j["more"] = "x"; });
    change({"unexpected object"}, [](auto& j) { j["tensors"]["b"] = ordered_json::object(); });
    change({"unexpected array"}, [](auto& j) { j["tensors"]["b"][0] = ordered_json::array(); });
    change({"unexpected array"}, [](auto& j) { j["shards"] = ordered_json::array(); });
    change({"unexpected string"}, [](auto& j) { j["shards"] = "x"; });
    put(left.file, R"({"plan":"a","plan":"b"})");
    check_refused([&] { left.read(); }, errc::bad_input, {"has 'plan' twice"});
    fs::resize_file(left.file, part_bytes_max + 1);
    check_refused([&] { left.read(); }, errc::bad_input, {"the limit is 67108864"});
  }
  SECTION("its tensors") {
    change({"'b'", "unknown dtype"}, [](auto& j) { j["tensors"]["b"][0] = "I7"; });
    change({"'b'", "malformed digest"}, [](auto& j) { j["tensors"]["b"][1] = ""; });
    change({"'b'", "malformed digest"},
           [](auto& j) { j["tensors"]["b"][2] = std::string(32, 'G'); });
    change({"'b'", "malformed shape"}, [](auto& j) { j["tensors"]["b"][3] = "-5"; });
    change({"'b'", "is not described"}, [](auto& j) { j["tensors"]["b"] = {"U8"}; });
    change({"'b'", "is not described"}, [](auto& j) {
      for (int i = 0; i < 65; ++i) j["tensors"]["b"].push_back("1");
    });
    change({"has a name"},
           [](auto& j) { j["tensors"][std::string(4097, 'n')] = j["tensors"]["b"]; });
    change({"has a name"}, [](auto& j) { j["tensors"]["__metadata__"] = j["tensors"]["b"]; });
    auto huge = left.said;
    huge["tensors"]["b"][3] = "18446744073709551615";
    huge["tensors"]["b"].push_back("3");
    left.refused(huge, {left.file.string(), "'b'"}, errc::wrong_layout);
    auto text = left.said.dump();
    text.replace(text.find("\"d\":"), 4, "\"b\":");
    put(left.file, text);
    check_refused([&] { left.read(); }, errc::wrong_layout, {"'b'"});
  }
  SECTION("what its shards hold") {
    auto& shards = left.said["shards"];
    change({"'x' is in a shard, and none of the rank's"},
           [&](auto& j) { j["shards"][left.shard].push_back("x"); });
    change({"'b' is in two shards"}, [&](auto& j) { j["shards"][left.shard].push_back("b"); });
    change({"'d' is not in a shard, and its digests say otherwise"},
           [&](auto& j) { j["shards"][left.shard] = {"b"}; });
    change({"'e' is in a shard, and its digests say otherwise"},
           [&](auto& j) { j["shards"][left.shard].push_back("e"); });
    // Said and true of the digests, but not of the file.
    change({left.shard, "'d'"}, [&](auto& j) {
      j["shards"][left.shard] = {"b"};
      j["tensors"]["d"][2] = j["tensors"]["d"][1];
    });
    for (const std::string name : {"../weight_v000001/model-00000-of-00001.safetensors",
                                   "/etc/passwd", "rank-00002-0123456789abcdef-t-00000.safetensors",
                                   "rank-00001-0123456789abcdef-t-00000.json",
                                   "rank-00001-0123456789abcdef-/../x.safetensors"}) {
      ordered_json other = left.said;
      other["shards"] = {{name, shards[left.shard]}};
      left.refused(other, {"which is no shard of this rank for this plan"});
    }
  }
  SECTION("its files") {
    put(left.file, left.said.dump());
    fs::rename(left.dir / left.shard, left.dir / "aside");
    check_refused([&] { left.read(); }, errc::bad_input, {left.shard, "not a regular file"});
    fs::create_symlink("aside", left.dir / left.shard);
    check_refused([&] { left.read(); }, errc::bad_input, {left.shard, "not a regular file"});
    fs::remove(left.dir / left.shard);
    put(left.dir / left.shard, get(left.dir / "aside").substr(0, 100));
    check_refused([&] { left.read(); }, errc::bad_input, {left.shard});
    // A checksum that is another than the part's digest.
    fs::copy_file(left.dir / "aside", left.dir / left.shard, fs::copy_options::overwrite_existing);
    const safetensors_file shard(left.dir / "aside");
    auto metadata = shard.metadata();
    metadata["d"] = std::string(32, '0');
    const layout held({shard.spec(0), shard.spec(1)});
    write_safetensors(
        left.dir / left.shard, held, [&](std::size_t i) { return shard.bytes(i); }, metadata);
    check_refused([&] { left.read(); }, errc::bad_input,
                  {left.shard, "'d' is not what its rank says"});
    left.plan.checksum = published_checksum::adler32;
    for (auto& [name, digest] : metadata) digest = "00000000";
    write_safetensors(
        left.dir / left.shard, held, [&](std::size_t i) { return shard.bytes(i); }, metadata);
    CHECK(left.read().tensors.size() == 3);
    left.plan.checksum = published_checksum::xxh3_128;
    // Whole tensors where there must be parts, and the other way round.
    write_safetensors(left.dir / left.shard, filled(layout({second[0], second[1]}), 1));
    check_refused([&] { left.read(); }, errc::bad_input, {left.shard, "'b' has no checksum"});
    left_part full(true);
    write_safetensors(full.dir / full.shard,
                      filled(layout({{"b", dtype::i8, {5}}, second[1], second[2]}), 1));
    check_refused([&] { full.read(); }, errc::bad_input,
                  {full.shard, "'b' is not what its rank says"});
  }
}
