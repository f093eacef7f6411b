// Decides the seeds of `host`, `rank`, `proof` and `run`: what processes leave in a directory of
// their own.
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "actors/run_counter.hpp"
#include "fuzz/host_files.hpp"
#include "fuzz/proof_files.hpp"
#include "fuzz/rank_files.hpp"
#include "fuzz/seed_files.hpp"
#include "kernels/hash.hpp"
#include "messages/ids.hpp"
#include "weights/acknowledgement.hpp"
#include "weights/checkpoint.hpp"
#include "weights/host_record.hpp"
#include "weights/published_shards.hpp"
#include "weights/rank_part.hpp"
#include "weights/rank_proof.hpp"
#include "weights/rank_publisher.hpp"
#include "weights/redo_log.hpp"
#include "weights/state_digest.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep::fuzz {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

void host_seeds(const fs::path& dir) {
  const auto scratch = dir / "scratch";
  const auto seed = [&](const std::string& name,
                        const std::vector<std::pair<std::string, std::string>>& files) {
    std::string all;
    for (const auto& [file, contents] : files) add_file(all, host_names, file, contents);
    put(dir / name, all);
  };
  const std::string acks = "acks/host.json";
  for (const auto reason : {errc::none, errc::wrong_base}) {
    write_acknowledgement(scratch, "host", {7, 0x1234, reason, "what it was", {3, 4}});
    seed("says-" + std::string(to_string(reason)), {{acks, get(scratch / "host.json")}});
  }
  const std::string notes = "checkpoint/.weight_sync/";
  const auto model = test_data / "published/adler32/base/model.safetensors";
  const auto written = get(model);
  {
    // A change that was declared, of one byte in the data; and one of all of the file.
    redo_log log(scratch / "redo.log");
    auto fresh = written;
    fresh.back() = static_cast<char>(fresh.back() ^ 1);
    log.add(0, 0, std::as_bytes(std::span(written)), std::as_bytes(std::span(fresh)));
    const auto seal = log.seal();
    const auto intent = [&](const std::string& kind) {
      const nlohmann::json files{"model.safetensors"};
      return nlohmann::json{{"kind", kind},
                            {"record", as_json(version_record{4, "run", "index", "", {}})},
                            {"log_bytes", std::to_string(seal.bytes)},
                            {"log_digest", seal.digest},
                            {"files", files}}
          .dump();
    };
    const std::pair log_file(notes + "redo.log", get(scratch / "redo.log"));
    seed("declared-delta", {log_file, {notes + "intent.json", intent("delta")}});
    seed("declared-full",
         {{notes + "incoming/model.safetensors", fresh}, {notes + "intent.json", intent("full")}});
    seed("declared-without-log", {{notes + "intent.json", intent("delta")}});
    seed("declared-and-marked", {log_file,
                                 {notes + "intent.json", intent("delta")},
                                 {notes + "state.json", R"({"version":"000003"})"}});
  }
  version_record noted{3, "run", "index", "state", {{"model.safetensors", 248, 1, 2}}};
  seed("noted", {{notes + "state.json", R"({"version":"000003"})"},
                 {notes + "lockstep.json", as_json(noted).dump()}});
  fs::remove_all(scratch);
}

/// What rank 1 of two leaves for rank 0, which asked for one shard for each tensor.
void rank_seeds(const fs::path& dir) {
  const auto scratch = dir / "scratch";
  const auto base = checkpoint::open(test_data / "published/adler32/base");
  weight_buffer target(base.shape());
  target.copy_from(base);
  target.tensor(0).back() ^= std::byte{0x40};
  target.tensor(1).back() ^= std::byte{0x40};
  const tensor_reader old = reader_of(base);
  const tensor_reader fresh = reader_of(std::as_const(target));
  for (const bool full : {false, true}) {
    fs::create_directories(scratch);
    rank_plan plan;
    plan.nonce = rank_nonce;
    plan.version = 3;
    plan.base_version = 2;
    plan.run = "run";
    plan.full = full;
    plan.ranks = 2;
    write_plan(scratch, plan);
    std::vector<std::string> digests(base.shape().count());
    publish_options how;
    how.digests = &digests;
    how.shard_bytes_max = full ? base.shape().total_bytes() : 1;
    auto shards = full ? version_shards(base.shape(), fresh, how)
                       : version_shards(scratch, base.shape(), old, fresh, how);
    rank_part part{plan.nonce, 1, {}, {}};
    std::string written;
    for (std::size_t s = 0; s < shards.count(); ++s) {
      const std::string name = rank_names[2 + s];
      shards.write(s, scratch / name);
      add_file(written, rank_names, name, get(scratch / name));
      part.shards.push_back({name, shards.names(s)});
    }
    const auto& before = shards.finish();
    for (std::size_t i = 0; i < base.shape().count(); ++i)
      part.tensors.push_back({base.shape()[i], full ? std::string() : before[i], digests[i]});
    write_part(scratch / rank_names[1], part);
    std::string said;
    for (const std::string name : {rank_names[0], rank_names[1]})
      add_file(said, rank_names, name, get(scratch / name));
    put(dir / (full ? "full" : "delta"), said + written);
    put(dir / (full ? "full-without-shards" : "delta-without-shards"), said);
    fs::remove_all(scratch);
  }
}

/// A log of one change of model.safetensors, whatever `change` makes of it, and the word of it.
struct log_of {
  log_of(const fs::path& scratch, const std::string& model, void (*change)(std::string&)) {
    auto fresh = model;
    fresh.back() = static_cast<char>(fresh.back() ^ 1);
    redo_log log(scratch);
    log.add(0, 0, std::as_bytes(std::span(model)), std::as_bytes(std::span(fresh)));
    log.seal();
    bytes = get(scratch);
    change(bytes);
    const auto hash =
        kernels::hash_bytes({reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()});
    digest = to_string(hash128{hash.hi, hash.lo});
    changed = fresh;
  }
  std::string bytes;
  std::string digest;
  std::string changed;  ///< the model
};

void rare_host_seeds(const fs::path& dir) {
  const auto scratch = dir / "scratch";
  const std::string notes = "checkpoint/.weight_sync/";
  const auto base = base_model();
  const auto seed = [&](const std::string& name, const named_files& files) {
    put_files(dir / name, host_names, files);
  };
  fs::create_directories(scratch);
  const log_of good(scratch / "log", base, [](std::string&) {});
  const auto intent = [&](const std::string& kind, const version_record& record,
                          const log_of& log) {
    return json{{"kind", kind},
                {"record", as_json(record)},
                {"log_bytes", std::to_string(log.bytes.size())},
                {"log_digest", log.digest},
                {"files", {"model.safetensors"}}}
        .dump();
  };
  const version_record plain{4, "run", "index", "", {}};
  const auto declared = [&](const std::string& name, const version_record& record,
                            const log_of& log) {
    seed(name,
         {{notes + "redo.log", log.bytes}, {notes + "intent.json", intent("delta", record, log)}});
  };
  declared("log-of-bad-runs", plain, log_of(scratch / "log", base, [](std::string& log) {
             log.replace(log.size() - 3, 3, "\xff\xff\xff");
           }));
  declared("log-of-runs-outside", plain, log_of(scratch / "log", base, [](std::string& log) {
             log.replace(log.size() - 3, 3, "\x7f\x7f\x7f");
           }));
  declared("log-that-ends-early", plain,
           log_of(scratch / "log", base, [](std::string& log) { log += 'x'; }));
  auto written = plain;
  written.files = {{"model.safetensors", 1, 2, 3}};
  declared("declared-and-written-since", written, good);
  auto reached = plain;
  put(scratch / "reached/model.safetensors", good.changed);
  reached.state = state_digest(checkpoint::open(scratch / "reached"));
  declared("declared-with-digest", reached, good);
  reached.state.front() = reached.state.front() == '0' ? '1' : '0';
  declared("declared-with-other-digest", reached, good);
  seed("declared-full-with-digest", {{notes + "incoming/model.safetensors", "no tensors"},
                                     {notes + "intent.json", intent("full", reached, good)}});
  written.files[0].bytes = base.size();
  seed("declared-full-of-files", {{notes + "incoming/model.safetensors", base},
                                  {notes + "intent.json", intent("full", written, good)}});
  seed("declared-malformed", {{notes + "intent.json", R"({"kind":"delta","record":{}})"}});
  auto hidden = json::parse(intent("delta", plain, good));
  hidden["files"] = {"../model.safetensors"};
  seed("declared-elsewhere",
       {{notes + "redo.log", good.bytes}, {notes + "intent.json", hidden.dump()}});
  auto in_the_way = json::parse(intent("full", plain, good));
  in_the_way["files"] = {"config.json"};
  seed("declared-where-a-directory-stands", {{notes + "incoming/config.json", "{}"},
                                             {notes + "intent.json", in_the_way.dump()},
                                             {"checkpoint/config.json/in-the-way", ""}});
  write_acknowledgement(scratch, "host", {7, 0x1234, errc::none, "r-3.of_7", {3, 4}});
  seed("says-a-name", {{"acks/host.json", get(scratch / "host.json")}});
  seed("says-nonsense",
       {{"acks/host.json",
         R"({"version":"7","challenge":"0000000000000001","reason":"?","proof":""})"}});
  auto noted = as_json(version_record{3, "run", "index", "state", {{"a", 1, 2, 3}}});
  seed("noted-of-another-file", {{notes + "state.json", R"({"version":"000003"})"},
                                 {notes + "lockstep.json", noted.dump()}});
  noted["files"][0].erase("bytes");
  seed("noted-malformed", {{notes + "lockstep.json", noted.dump()}});
  seed("noted-with-index",
       {{notes + "state.json", R"({"version":"000003"})"},
        {notes + "lockstep.json", as_json(written).dump()},
        {notes + "intent.json", intent("delta", plain, good)},
        {"checkpoint/" + index_json, R"({"weight_map":{"a":"model.safetensors"}})"}});
  written.version = 3;
  seed("noted-with-bad-index", {{notes + "state.json", R"({"version":"000003"})"},
                                {notes + "lockstep.json", as_json(written).dump()},
                                {"checkpoint/" + index_json, "{"}});
  const auto asks = [](const std::string& challenge) {
    return R"({"metadata":{"lockstep_challenge":")" + challenge + R"("},"weight_map":{}})";
  };
  seed("asked", {{"version/" + index_json, asks("0123456789abcdef")}});
  seed("asked-nothing", {{"version/" + index_json, R"({"weight_map":{}})"}});
  seed("asked-nonsense", {{"version/" + index_json, asks("0123")}});
  seed("asked-after-nonsense",
       {{"acks/host.json", "x"}, {"version/" + index_json, asks("0123456789abcdef")}});
  fs::remove_all(scratch);
}

void rare_rank_seeds(const fs::path& dir) {
  rank_plan plan;
  plan.nonce = rank_nonce;
  plan.version = 3;
  plan.run = "run";
  plan.full = true;
  plan.ranks = 2;
  const auto scratch = dir / "scratch";
  fs::create_directories(scratch);
  write_plan(scratch, plan);
  const auto said = get(scratch / rank_names[0]);
  fs::remove_all(scratch);
  const std::string digest(32, 'a');
  const auto seed = [&](const std::string& name, const json& tensors, const json& shards,
                        const json& header, std::size_t bytes) {
    const json part{{"plan", plan.nonce}, {"rank", "1"}, {"tensors", tensors}, {"shards", shards}};
    put_files(dir / name, rank_names,
              {{rank_names[0], said},
               {rank_names[1], part.dump()},
               {rank_names[2], safetensors_of(header, bytes)},
               {rank_names[3], safetensors_of(header, bytes)}});
  };
  const json header{{"a", {{"dtype", "U8"}, {"shape", {1}}, {"data_offsets", {0, 1}}}}};
  const json one{{"a", {"U8", "", digest, "1"}}};
  seed("one-tensor", one, {{rank_names[2], {"a"}}}, header, 1);
  // A shard's bytes need not be in the order of its names.
  const auto at = [](int begin) {
    return json{{"dtype", "U8"}, {"shape", {1}}, {"data_offsets", {begin, begin + 1}}};
  };
  json said_of;
  for (const auto* name : {"a", "b", "c"}) said_of[name] = {"U8", "", digest, "1"};
  const json three{{"plan", plan.nonce},
                   {"rank", "1"},
                   {"tensors", said_of},
                   {"shards", {{rank_names[2], {"a", "b", "c"}}}}};
  put_files(
      dir / "tensors-in-another-order", rank_names,
      {{rank_names[0], said},
       {rank_names[1], three.dump()},
       {rank_names[2], safetensors_of({{"a", at(2)}, {"b", at(0)}, {"c", at(1)}}, 0) + "bca"}});
  seed("tensor-in-two-shards", one, {{rank_names[2], {"a"}}, {rank_names[3], {"a"}}}, header, 1);
  seed("tensor-of-other-type", {{"a", {"I8", "", digest, "1"}}}, {{rank_names[2], {"a"}}}, header,
       1);
  seed("tensor-without-name", {{"", {"U8", "", digest, "1"}}}, json::object(), header, 1);
  seed("tensor-too-large",
       {{"a", {"U8", "", digest, "18446744073709551615", "18446744073709551615"}}},
       {{rank_names[2], {"a"}}}, header, 1);
}

void refusal_seeds(const fs::path& dir) {
  const auto scratch = dir / "scratch";
  fs::create_directories(scratch);
  write_refusal(scratch, {rank_nonce, "rank 1 has another tensor"});
  const std::pair<std::string, std::string> refusal("refusal.json", get(scratch / "refusal.json"));
  fs::remove_all(scratch);
  put_files(dir / "refused", rank_names, {refusal});
  put_files(dir / "refused-by-nonsense", rank_names, {{"refusal.json", R"({"why":"\uD800"})"}});
  put_files(dir / "refused-while-a-rank-writes", rank_names, {refusal, {rank_names[1], "{"}});
}

/// What rank 0 asks rank 1 for, and what that answers.
void proof_seeds(const fs::path& dir) {
  const auto scratch = dir / "scratch";
  const std::string order = proof_names[0], share = proof_names[1];
  const std::string digest(32, 'a');
  const auto seed = [&](const std::string& name, const named_files& files) {
    put_files(dir / name, proof_names, files);
  };
  const auto ordered = [&](const std::vector<std::optional<std::uint32_t>>& numbers) {
    write_order(scratch, proof_nonce, 1, {digest, 0x1234, numbers});
    return get(scratch / order);
  };
  seed("order", {{order, ordered({0, 2, std::nullopt, 5})}});
  seed("order-of-no-tensor", {{order, ordered({})}});
  seed("order-of-tensors-that-others-have", {{order, ordered({std::nullopt, std::nullopt})}});
  seed("order-far-away", {{order, ordered({999'999})}});
  seed("order-too-far-away", {{order, ordered({1'000'000})}});
  seed("order-of-one-tensor-twice", {{order, ordered({3, 3})}});
  seed("order-backwards", {{order, ordered({3, 2})}});
  const auto other = [&](const std::string& name, const char* key, const json& value) {
    auto said = json::parse(ordered({1}));
    said[key] = value;
    seed(name, {{order, said.dump()}});
  };
  other("order-of-words", "numbers", {"1", "two"});
  other("order-of-numbers", "numbers", {1, 2});
  other("order-of-lists", "numbers", {json::array()});
  other("order-of-a-word", "numbers", "1");
  other("order-with-more", "more", "x");
  other("order-without-challenge", "challenge", "1234");
  // Made whole, this would be seventy times as long.
  seed("order-nested", {{order, R"({"numbers":)" + std::string(16'000, '[')}});
  seed("order-with-objects", {{order, R"({"part":{}})"}});
  seed("order-that-is-none", {{order, R"("order")"}});
  write_share(scratch / "share", {3, 4});
  seed("share", {{share, get(scratch / "share")}});
  seed("share-that-is-none", {{share, R"({"share":"x"})"}});
  seed("share-too-long", {{share, R"({"share":")" + std::string(5'000, 'a') + R"("})"}});
  const auto index = [](const std::string& digests) {
    return json{{"metadata", {{own_key::rank_targets, digests}}}, {"weight_map", json::object()}}
        .dump();
  };
  seed("digests", {{index_json, index(digest + ',' + digest)}});
  seed("digests-of-three", {{index_json, index("a,b,c")}});
  seed("digests-of-many", {{index_json, index(std::string(16'000, ','))}});
  seed("digests-that-are-empty", {{index_json, index(",")}});
  seed("digests-of-no-index", {{index_json, "{"}});
  fs::remove_all(scratch);
}

void run_seeds(const fs::path& dir) {
  const auto scratch = dir / "scratch";
  const auto after = [&](std::uint64_t number) {
    fs::remove_all(scratch);
    fs::create_directories(scratch);
    run_counter(scratch / "run").take(number);
    return get(scratch / "run");
  };
  put(dir / "first", after(1));
  put(dir / "today", after(1'764'340'000'000));
  put(dir / "last", after(UINT64_MAX / 2));
  put(dir / "last-but-one", after(UINT64_MAX / 2 - 1));
  auto damaged = after(17);
  damaged.back() = 'x';
  put(dir / "damaged", damaged);
  const auto hashed = [](std::string text) {
    const auto hash =
        kernels::hash_bytes({reinterpret_cast<const std::byte*>(text.data()), text.size()});
    return text + to_string(hash128{hash.hi, hash.lo}) + "\n";
  };
  put(dir / "none", hashed("lockstep run 0 "));
  put(dir / "spelled-otherwise", hashed("lockstep run 017 "));
  put(dir / "past-the-last", hashed("lockstep run 9223372036854775808 "));
  put(dir / "overflows", hashed("lockstep run 18446744073709551617 "));
  put(dir / "something-else", hashed("lockstep walk 17 "));
  put(dir / "too-long", std::string(300, '9'));
  put(dir / "nothing", "");
  fs::remove_all(scratch);
}

}  // namespace

void put_host_seeds(const fs::path& dir) {
  host_seeds(dir / "host");
  rare_host_seeds(dir / "host");
  rank_seeds(dir / "rank");
  rare_rank_seeds(dir / "rank");
  refusal_seeds(dir / "rank");
  proof_seeds(dir / "proof");
  run_seeds(dir / "run");
}

}  // namespace lockstep::fuzz
