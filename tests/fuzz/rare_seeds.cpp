// Decides the seeds that are refused late, or come by time: what a search would take long to meet.
#include <xxhash.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "actors/run_counter.hpp"
#include "fuzz/conversation.hpp"
#include "fuzz/frame_tensors.hpp"
#include "fuzz/host_files.hpp"
#include "fuzz/pull_directories.hpp"
#include "fuzz/rank_files.hpp"
#include "fuzz/seed_files.hpp"
#include "fuzz/stream_files.hpp"
#include "kernels/coded.hpp"
#include "kernels/hash.hpp"
#include "messages/ids.hpp"
#include "transport/bulk_frame.hpp"
#include "transport/greeting.hpp"
#include "weights/checkpoint.hpp"
#include "weights/host_record.hpp"
#include "weights/rank_part.hpp"
#include "weights/redo_log.hpp"
#include "weights/safetensors.hpp"
#include "weights/state_digest.hpp"

namespace lockstep::fuzz {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

using named_files = std::vector<std::pair<std::string, std::string>>;

template <class Names>
void put_files(const fs::path& file, const Names& names, const named_files& files) {
  std::string all;
  for (const auto& [name, contents] : files) add_file(all, names, name, contents);
  put(file, all);
}

std::string base_model() {
  return get(test_data / "published/adler32/base/model.safetensors");
}

/// A safetensors file of this header over `data` bytes.
std::string safetensors_of(const json& header, std::size_t data) {
  const auto text = header.dump();
  std::string out;
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>(text.size() >> (8 * i)));
  return out + text + std::string(data, 'x');
}

json header_of(const std::string& model) {
  std::uint64_t length = 0;
  std::memcpy(&length, model.data(), sizeof length);
  return json::parse(model.substr(8, length));
}

void stream_seeds(const fs::path& dir) {
  const auto base = base_model();
  const auto published = test_data / "published/adler32/stream/weight_v000001";
  const auto index = get(published / index_json);
  const auto part = get(published / shard);
  const std::string v1 = "weight_v000001/";
  const std::string second = "model-00001-of-00002.safetensors";
  put_files(dir / "number-too-large", stream_names,
            {{"weight_v18446744073709551616/model.safetensors", base}});
  put_files(dir / "number-twice", stream_names,
            {{"step_4/model.safetensors", base}, {"weight_v000004/model.safetensors", base}});
  auto summed = header_of(base);
  summed["__metadata__"]["model.norm.weight"] = "0badcafe";
  put_files(dir / "part-without-index", stream_names,
            {{v1 + "model.safetensors", safetensors_of(summed, 80)}});
  put_files(dir / "stray-shard", stream_names,
            {{v1 + index_json, index}, {v1 + shard, part}, {v1 + second, base}});
  auto typed = header_of(part);
  for (auto& [name, tensor] : typed.items())
    if (name != "__metadata__") tensor["dtype"] = "I8";
  put_files(dir / "part-of-i8", stream_names,
            {{v1 + index_json, index},
             {v1 + shard, safetensors_of(
                              typed, part.size() - 8 - [&] {
                                std::uint64_t length = 0;
                                std::memcpy(&length, part.data(), sizeof length);
                                return static_cast<std::size_t>(length);
                              }())}});
  put_files(dir / "ranks-that-agree", stream_names, {{v1 + shard, base}, {v1 + second, base}});
  auto other = base;
  other.back() = static_cast<char>(other.back() ^ 1);
  put_files(dir / "ranks-that-differ", stream_names, {{v1 + shard, base}, {v1 + second, other}});
  auto more = header_of(base);
  more["z"] = {{"dtype", "U8"}, {"shape", {1}}, {"data_offsets", {80, 81}}};
  put_files(dir / "tensor-too-many", stream_names,
            {{"step_4/model.safetensors", safetensors_of(more, 81)}});
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

void host_seeds(const fs::path& dir) {
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

void rank_seeds(const fs::path& dir) {
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
  seed("tensor-in-two-shards", one, {{rank_names[2], {"a"}}, {rank_names[3], {"a"}}}, header, 1);
  seed("tensor-of-other-type", {{"a", {"I8", "", digest, "1"}}}, {{rank_names[2], {"a"}}}, header,
       1);
  seed("tensor-without-name", {{"", {"U8", "", digest, "1"}}}, json::object(), header, 1);
  seed("tensor-too-large",
       {{"a", {"U8", "", digest, "18446744073709551615", "18446744073709551615"}}},
       {{rank_names[2], {"a"}}}, header, 1);
}

/// A frame like `whole` with another payload.
std::string with_payload(const std::string& whole, const std::string& payload) {
  auto out = whole.substr(0, kernels::frame_header_bytes) + payload;
  const auto bytes = static_cast<std::uint32_t>(payload.size());
  std::memcpy(out.data() + kernels::field::payload_bytes, &bytes, sizeof bytes);
  const auto checksum =
      kernels::frame_checksum({reinterpret_cast<const std::byte*>(out.data()), out.size()});
  std::memcpy(out.data() + kernels::field::checksum, &checksum, sizeof checksum);
  return out;
}

/// With as many classes as there are, near each other and far.
void coded_seeds(const fs::path& dir) {
  const auto base = make_coded_tensors();
  const auto views = coded_views_of(base);
  const std::vector<std::pair<std::string, std::vector<std::uint8_t>>> models{
      {"near", {56, 58, 60}},
      {"near-by-pairs", {57, 58, 59, 60}},
      {"far", {1, 57, 255}},
      {"far-of-two", {56, 100}},
      {"all", {50, 52, 54, 56, 57, 58, 59}}};
  kernels::delta_encoder encoder;
  for (std::uint32_t t = 0; t < 4; ++t)
    for (const std::size_t every : {std::size_t{1}, std::size_t{7}}) {
      const auto unit = coded_shapes[t].unit;
      auto target = base[t];
      for (std::size_t i = 0; i < target.size() / unit; i += every)
        target[i * unit] = static_cast<std::byte>(std::to_integer<unsigned>(target[i * unit]) + 1);
      for (const auto& [name, thresholds] : models) {
        if (every == 1 && name != "near") continue;
        kernels::class_model model;
        model.classes = static_cast<std::uint8_t>(thresholds.size() + 1);
        std::copy(thresholds.begin(), thresholds.end(), model.thresholds.begin());
        bytes out;
        encoder.encode(t, views[t], {{target.data(), target.size()}, unit}, 0, model,
                       kernels::encoding_choice::coded, out);
        put(dir / (name + "-" + std::to_string(t) + "-every-" + std::to_string(every)),
            text_of(out));
        if (t != 1 || name != "far") continue;
        // One class; nothing of it, and exceptions whose number does not end.
        put(dir / "table-cut-off", with_payload(text_of(out), std::string(1, '\0')));
        put(dir / "table-without-end",
            with_payload(text_of(out), std::string(1, '\0') + "\x40\x80\x80\x80"));
      }
    }
}

/// Coded frames: in one bucket, in two, and more than may be held when they are staged.
void bucket_seeds(const fs::path& dir) {
  const std::uint32_t t = 1;
  const auto base = make_tensors()[t];
  const auto shape = tensor_shapes[t];
  const auto coded = [&](std::size_t every) {
    auto target = base;
    for (std::size_t i = 0; i < shape.size / shape.unit; i += every)
      target[i * shape.unit] =
          static_cast<std::byte>(std::to_integer<unsigned>(target[i * shape.unit]) + 1);
    const kernels::tensor_view from{{base.data(), shape.size}, shape.unit};
    const kernels::tensor_view to{{target.data(), shape.size}, shape.unit};
    bytes out;
    kernels::delta_encoder().encode(t, from, to, 0, kernels::plan_classes(from, to),
                                    kernels::encoding_choice::coded, out);
    return text_of(out);
  };
  put(dir / "coded", coded(100) + '\2');
  put(dir / "coded-twice", coded(100) + coded(200) + '\1');
  put(dir / "coded-and-larger-than-taken", coded(20) + '\1');
}

void greeting_seeds(const fs::path& dir) {
  greeting_answer answer;
  answer.self.cluster = 7;
  answer.self.link = {1, 2};
  auto bytes = encode_answer(answer);
  const auto sealed = [](std::vector<std::byte> b) {
    const auto hash = XXH3_64bits(b.data(), b.size() - 8);
    std::memcpy(b.data() + b.size() - 8, &hash, 8);
    return text_of(b);
  };
  auto nonsense = bytes;
  nonsense[greeting_header_bytes] = std::byte{0xff};
  put(dir / "no-verdict", sealed(nonsense));
  put(dir / "header", text_of(bytes).substr(0, greeting_header_bytes));
  auto damaged = bytes;
  damaged.back() ^= std::byte{1};
  put(dir / "damaged", text_of(damaged));
  auto little = bytes;
  little[4] = std::byte{greeting_header_bytes};
  put(dir / "shorter-than-none", text_of(little));
  const auto frame = encode_bulk_header({{7, {8, 9}, {10, 11}}, 12, 2 << 20});
  std::vector<std::byte> bulk(frame.begin(), frame.end());
  put(dir / "frame-too-long", text_of(bulk));
  bulk.back() ^= std::byte{1};
  put(dir / "frame-damaged", text_of(bulk));
  bulk[3] = std::byte{9};
  put(dir / "frame-of-version-9", text_of(bulk));
}

void message_seeds(const fs::path& dir) {
  const ping_msg ping{cluster, life, {1, 2}};
  const auto one = text_of(encode_message(ping));
  put(dir / "several", one + one + text_of(encode_message(beat_msg{cluster})) + one);
  put(dir / "several-and-damaged", one + one + one.substr(0, one.size() - 1) + '?' + one);
  put(dir / "cut-off", one + one.substr(0, one.size() - 1));
  auto longer = one;
  longer[10] = 1;  // 64 KiB
  put(dir / "longer-than-taken", longer);
  auto endless = one;
  endless.replace(8, 8, 8, '\xff');
  put(dir / "as-long-as-can-be", endless);
}

void trainer_seeds(const fs::path& dir) {
  std::string all;
  const auto say = [&](const wire_message& m) { all += text_of(encode_message(m)); };
  const auto done = [&](const std::string& name) { put(dir / name, std::exchange(all, {})); };
  envelope env{cluster, {1, 2}, life};
  envelope other = env;
  other.inc = {1, 1};
  std::uint32_t round = 1;  // the one that is open at first
  const auto both = [&](reply_kind one, const digest& proof, reply_kind two, const digest& part) {
    say(reply_msg{env, id, round, one, errc::none, "", proof});
    say(reply_msg{other, 8, round, two, errc::timeout, std::string(2'000, 'd'), part});
    ++round;
  };
  const auto opened = [&](const wire_message& m) {
    say(m);
    ++round;
  };
  const digest whole{3, 4};
  const digest part{5, 7};
  opened(attach_msg{env, {}, {}, 0});
  both(reply_kind::attached, whole, reply_kind::need_full, {});
  opened(full_begin_msg{env, {}, {}, 0});
  both(reply_kind::full_ok, whole, reply_kind::full_fail, {});
  opened(prepare_msg{env, {}, {}, {}, {}});
  both(reply_kind::vote_no, {}, reply_kind::vote_yes, {});
  opened(redo_msg{env, {}, {}, 0, 0});
  both(reply_kind::nack, {}, reply_kind::ack, part);
  opened(redo_msg{env, {}, {}, 0, 0});
  both(reply_kind::ack, whole, reply_kind::ack, part);
  both(reply_kind::ack, whole, reply_kind::ack, whole);
  done("every-round");
  round = 1;
  say(audit_msg{cluster, life, 10});
  say(audit_msg{cluster, {}, 5});
  say(ping_msg{cluster, life, {1, 20}});
  say(reply_msg{env, id, 2, reply_kind::ack, errc::none, "", whole});
  say(ping_msg{cluster, life, {1, 5'000}});
  say(redo_msg{{cluster, {1, 3}, {}}, {}, {}, 0, 0});  // asks nobody
  say(reply_msg{env, id, 4, reply_kind::ack, errc::none, "", whole});
  say(goodbye_msg{cluster, id, life});
  done("hurried-late-and-empty");
  say(hello_msg{cluster, id, "r", life, {1, 2}});
  say(goodbye_msg{cluster, id, life});
  say(goodbye_msg{cluster, id, life});
  say(goodbye_msg{cluster, 9, life});
  say(goodbye_msg{cluster, 8, {1, 1}});
  done("both-end");
  const auto fail = [&](std::uint64_t how) { say(abort_msg{{cluster, {1, how}, life}}); };
  const auto hello = [&](const std::string& name, const incarnation& inc) {
    say(hello_msg{cluster, id, name, inc, {1, 2}});
  };
  const auto reach = [&](bool linked) { say(shard_reach_msg{cluster, 1, id, life, linked, 0}); };
  const auto wait = [&](std::uint64_t ms) { say(ping_msg{cluster, life, {1, ms}}); };
  const auto pong = [&] {
    say(pong_msg{cluster, id, life, {true, receiver_phase::serving, {1, 1}, 0}});
  };
  hello("parted", life);
  reach(false);
  wait(99'000);
  reach(true);
  reach(true);
  pong();
  reach(false);
  reach(false);
  hello("parted", life);
  fail(4);
  pong();
  reach(true);
  done("parted-and-reached");
  hello("r", life);
  for (int i = 0; i < 12; ++i) {
    fail(i % 2 == 0 ? 2 : 3);
    wait(20'000);
    pong();
    wait(1);
  }
  say(commit_msg{env, {}, 0, 0});
  hello("r", {1, 9});
  done("given-up");
  hello("r", life);
  fail(3);
  fail(7);
  fail(6);
  for (int i = 0; i < 8; ++i) {
    fail(4);
    pong();
    say(commit_msg{env, {}, 0, static_cast<std::uint32_t>(i)});
  }
  fail(5);
  pong();
  fail(4);
  hello("r", life);
  for (std::uint64_t i = 1; i < 20; ++i) hello("r", {2, i});
  hello("r", {2, 18});
  wait(99'000);
  hello("r", {2, 18});
  say(hello_msg{cluster, id, "r", {}, {1, 2}});
  done("ended-and-back");
}

void settings_seeds(const fs::path& dir) {
  const std::string nul(1, '\0');
  put(dir / "choices",
      nul + "log.level=loud\nlog.level\nnope=1\nLOCKSTEP_NOPE=1\n" +
          "sync.members_min=99999999999\nsync.members_min=x\nlog.file=" + std::string(5'000, 'x') +
          "\ntrainer.run_file=\x01\nlog.file=\xed\xa0\x80\n");
  put(dir / "no-table", "log = 3\n");
  put(dir / "negative", "[sync]\nmembers_min = -3\n");
}

void pull_seeds(const fs::path& dir) {
  const auto asks = [](const std::string& source, const std::string& host, const json& version) {
    return json{{"source_dir", source}, {"local_checkpoint_dir", host}, {"target_version", version}}
        .dump();
  };
  const std::string stream = pull_sources[0];
  const std::string host = pull_checkpoints[0];
  put(dir / "asked", asks(stream, host, 7));
  put(dir / "asked-in-other-words", asks(stream + "/../other/.", host + "/", 7));
  put(dir / "last-version", asks(stream, host, UINT64_MAX));
  put(dir / "version-0", asks(stream, host, 0));
  put(dir / "version-in-quotes", asks(stream, host, "7"));
  put(dir / "elsewhere", asks("/etc", host, 7));
  put(dir / "elsewhere-on-the-host", asks(stream, stream, 7));
  put(dir / "name-with-nul", asks(stream + std::string(1, '\0'), host, 7));
  put(dir / "name-in-two-lines", asks("a\nb", host, 7));
  put(dir / "no-source", json{{"local_checkpoint_dir", host}}.dump());
  put(dir / "no-object", "[1]");
  put(dir / "nothing", "");
  put(dir / "twice", R"({"source_dir":1,"source_dir":")" + stream + "\"}");
  put(dir / "deep", std::string(2'000, '[') + std::string(2'000, ']'));
  put(dir / "loaded", R"({"success": true, "message": "ok"})");
  put(dir / "not-loaded", R"({"success": false})");
  put(dir / "success-is-text", R"({"success": "false"})");
  put(dir / "success-is-nothing", R"({"success": null})");
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

void put_rare_seeds(const fs::path& dir) {
  stream_seeds(dir / "stream");
  host_seeds(dir / "host");
  rank_seeds(dir / "rank");
  coded_seeds(dir / "coded");
  bucket_seeds(dir / "bucket");
  greeting_seeds(dir / "greeting");
  message_seeds(dir / "message");
  trainer_seeds(dir / "trainer");
  settings_seeds(dir / "settings");
  pull_seeds(dir / "pull");
  run_seeds(dir / "run");
}

}  // namespace lockstep::fuzz
