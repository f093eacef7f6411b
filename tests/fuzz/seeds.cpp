// fuzz_seeds DIR: makes the seeds in DIR/<target> anew, from tests/data and examples/data.
#include <zstd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "config/settings_loader.hpp"
#include "fuzz/conversation.hpp"
#include "fuzz/frame_tensors.hpp"
#include "fuzz/host_files.hpp"
#include "fuzz/rank_files.hpp"
#include "fuzz/seed_files.hpp"
#include "fuzz/stream_files.hpp"
#include "kernels/coded.hpp"
#include "support/sample_messages.hpp"
#include "transport/bulk_frame.hpp"
#include "transport/greeting.hpp"
#include "weights/acknowledgement.hpp"
#include "weights/bucket_codec.hpp"
#include "weights/checkpoint.hpp"
#include "weights/compressed.hpp"
#include "weights/host_record.hpp"
#include "weights/published.hpp"
#include "weights/published_shards.hpp"
#include "weights/rank_part.hpp"
#include "weights/redo_log.hpp"
#include "weights/safetensors.hpp"

namespace {

using namespace lockstep;
namespace fs = std::filesystem;
using fuzz::add_file;
using fuzz::bytes;
using fuzz::example_data;
using fuzz::get;
using fuzz::index_json;
using fuzz::put;
using fuzz::shard;
using fuzz::test_data;
using fuzz::text_of;

/// The header of a real checkpoint over no data: each tensor is cut down to nothing.
std::string header_of(const fs::path& file) {
  auto text = get(file);
  std::size_t length = 0;
  for (std::size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(text[i]);
  return text.substr(0, 8 + length);
}

void safetensors_seeds(const fs::path& dir) {
  for (const std::string format : {"adler32", "xxh3-128"}) {
    const auto from = test_data / "published" / format;
    put(dir / ("base-" + format), get(from / "base/model.safetensors"));
    put(dir / ("delta-" + format), get(from / "stream/weight_v000001" / shard));
  }
  put(dir / "tiny-rl-without-data", header_of(example_data / "tiny-rl/base/model.safetensors"));
  // One tensor of every dtype.
  std::vector<tensor_spec> specs;
  for (int i = 0; i <= static_cast<int>(dtype::last_); ++i)
    specs.push_back({"t" + std::to_string(i), static_cast<dtype>(i), {2, 4}});
  const layout shape(std::move(specs));
  const bytes zeros(64);
  const auto file = dir / "every-dtype";
  write_safetensors(file, shape,
                    [&](std::size_t i) { return std::span(zeros).first(shape.bytes(i)); });
}

/// Headers that must be refused, each for one reason: what a search would take long to come upon.
void hostile_headers(const fs::path& dir) {
  const auto file = [&](const std::string& name, const std::string& header, std::size_t data) {
    std::string text;
    for (int i = 0; i < 8; ++i) text.push_back(static_cast<char>(header.size() >> (8 * i)));
    put(dir / name, text + header + std::string(data, 'x'));
  };
  const auto tensor = [](const std::string& name, const std::string& shape, const std::string& at) {
    return '"' + name + R"(":{"dtype":"U8","shape":)" + shape + R"(,"data_offsets":)" + at + '}';
  };
  file("hole", '{' + tensor("a", "[1]", "[0,1]") + ',' + tensor("b", "[1]", "[2,3]") + '}', 3);
  file("overlap", '{' + tensor("a", "[2]", "[0,2]") + ',' + tensor("b", "[2]", "[1,3]") + '}', 3);
  file("overlap-and-hole",
       '{' + tensor("a", "[2]", "[0,2]") + ',' + tensor("b", "[1]", "[1,2]") + '}', 3);
  file("same-name", '{' + tensor("a", "[1]", "[0,1]") + ',' + tensor("a", "[1]", "[1,2]") + '}', 2);
  file("inverted", '{' + tensor("a", "[0]", "[1,0]") + '}', 1);
  file("shape-overflows", '{' + tensor("a", "[4194305,4194305,211106198978564]", "[0,4]") + '}', 4);
  file("same-metadata", R"({"__metadata__":{"a":"b","a":"c"}})", 0);
  file("three-offsets", '{' + tensor("a", "[1]", "[0,1,2]") + '}', 1);
  std::string rank = "[1";
  for (int i = 0; i < 64; ++i) rank += ",1";
  file("rank-65", '{' + tensor("a", rank + ']', "[0,1]") + '}', 1);
  file("bytes-after", '{' + tensor("a", "[1]", "[0,1]") + '}', 2);
  file("empty-tensor-inside",
       '{' + tensor("a", "[2]", "[0,2]") + ',' + tensor("b", "[0]", "[1,1]") + '}', 2);
}

void index_seeds(const fs::path& dir) {
  for (const std::string format : {"adler32", "xxh3-128"})
    for (const std::string version : {"1", "3"})
      put(dir / (format + "-v" + version), get(test_data / "published" / format / "stream" /
                                               ("weight_v00000" + version) / index_json));
  for (const std::string name : {"../a", "a/b", ".", "a.safetensors/.."})
    put(dir / ("leads-to-" + std::to_string(name.size())),
        R"({"weight_map":{"t":")" + name + R"(.safetensors"}})");
  put(dir / "same-key", R"({"weight_map":{"t":"a.safetensors","t":"b.safetensors"}})");
  put(dir / "deep", R"({"metadata":{"a":[[[[]]]]},"weight_map":{}})");
  put(dir / "tiny-rl", get(example_data / "tiny-rl/stream/weight_v000006" / index_json));
}

void part_seeds(const fs::path& dir) {
  // The first byte: bit 0 overwrite, bits 1 and 2 the tensor's size, bit 3 to be compressed first.
  const auto seed = [&](const std::string& name, int mode, const bytes& rest) {
    put(dir / name, std::string(1, static_cast<char>(mode)) + text_of(rest));
  };
  bytes sparse(300);
  sparse[7] = std::byte{1};
  sparse[299] = std::byte{0x80};
  seed("xor", 4, compress(sparse));
  seed("xor-of-nothing", 0, compress({}));
  seed("xor-to-compress", 4 | 8, sparse);
  seed("xor-large", 6, compress(bytes(70'000)));
  const bytes changes{std::byte{2},
                      {},
                      {},
                      {},
                      std::byte{3},
                      {},
                      {},
                      {},
                      std::byte{9},
                      {},
                      {},
                      {},
                      std::byte{0x11},
                      std::byte{0x22}};
  seed("overwrite", 1 | 4, compress(changes));
  seed("overwrite-to-compress", 1 | 4 | 8, changes);
  seed("overwrite-nothing", 1 | 2 | 8, bytes(4));
}

/// A delta that changes every tensor: whole, and with the last of them damaged.
void add_published(const fs::path& dir, published_encoding encoding, const std::string& name) {
  const auto base = checkpoint::open(test_data / "published/adler32/base");
  weight_buffer target(base.shape());
  target.copy_from(base);
  for (std::size_t i = 0; i < target.shape().count(); ++i)
    if (!target.tensor(i).empty()) target.tensor(i).back() ^= std::byte{0x40};
  const auto scratch = dir / "scratch";
  publish_options options;
  options.encoding = encoding;
  publish_delta(scratch, 1, 0, base.shape(), reader_of(base), reader_of(std::as_const(target)),
                options);
  auto contents = get(scratch / "weight_v000001" / shard);
  std::string all;
  add_file(all, fuzz::stream_names, "weight_v000001/" + index_json,
           get(scratch / "weight_v000001" / index_json));
  auto damaged = all;
  add_file(all, fuzz::stream_names, "weight_v000001/" + shard, contents);
  contents.back() = static_cast<char>(contents.back() ^ 1);
  add_file(damaged, fuzz::stream_names, "weight_v000001/" + shard, contents);
  fs::remove_all(scratch);
  put(dir / name, all);
  put(dir / (name + "-damaged"), damaged);
}

void stream_seeds(const fs::path& dir) {
  for (const std::string format : {"adler32", "xxh3-128"}) {
    const auto from = test_data / "published" / format / "stream";
    std::string all;
    for (const std::string version : {"weight_v000001/", "weight_v000002/", "weight_v000003/"}) {
      add_file(all, fuzz::stream_names, version + index_json, get(from / (version + index_json)));
      if (fs::exists(from / (version + shard)))
        add_file(all, fuzz::stream_names, version + shard, get(from / (version + shard)));
    }
    put(dir / ("published-" + format), all);
  }
  const auto base = get(test_data / "published/adler32/base/model.safetensors");
  std::string full;
  add_file(full, fuzz::stream_names, "weight_v000001/model.safetensors", base);
  add_file(full, fuzz::stream_names, "step_4/model.safetensors", base);
  put(dir / "checkpoints", full);
  add_published(dir, published_encoding::xored, "every-tensor-xor");
  add_published(dir, published_encoding::overwrite, "every-tensor-overwrite");
  add_published(dir, published_encoding::coded, "every-tensor-coded");
}

void host_seeds(const fs::path& dir) {
  const auto scratch = dir / "scratch";
  const auto seed = [&](const std::string& name,
                        const std::vector<std::pair<std::string, std::string>>& files) {
    std::string all;
    for (const auto& [file, contents] : files) add_file(all, fuzz::host_names, file, contents);
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
    plan.nonce = fuzz::rank_nonce;
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
      const std::string name = fuzz::rank_names[2 + s];
      shards.write(s, scratch / name);
      add_file(written, fuzz::rank_names, name, get(scratch / name));
      part.shards.push_back({name, shards.names(s)});
    }
    const auto& before = shards.finish();
    for (std::size_t i = 0; i < base.shape().count(); ++i)
      part.tensors.push_back({base.shape()[i], full ? std::string() : before[i], digests[i]});
    write_part(scratch / fuzz::rank_names[1], part);
    std::string said;
    for (const std::string name : {fuzz::rank_names[0], fuzz::rank_names[1]})
      add_file(said, fuzz::rank_names, name, get(scratch / name));
    put(dir / (full ? "full" : "delta"), said + written);
    put(dir / (full ? "full-without-shards" : "delta-without-shards"), said);
    fs::remove_all(scratch);
  }
}

/// Frames that change `tensor` at `elements`.
void add_delta(bytes& out, const std::vector<bytes>& base, std::uint32_t tensor,
               const std::vector<std::size_t>& elements) {
  const auto [size, unit] = fuzz::tensor_shapes[tensor];
  auto target = base[tensor];
  for (const auto e : elements) target[e * unit] ^= std::byte{0x5a};
  for (std::size_t at = 0; at < size; at += kernels::frame_span_bytes_max)
    kernels::encode_delta(tensor, {{base[tensor].data(), size}, unit},
                          {{target.data(), size}, unit}, at, out);
}

void frame_seeds(const fs::path& frames, const fs::path& buckets) {
  const auto base = fuzz::make_tensors();
  const std::vector<
      std::pair<std::string, std::vector<std::pair<std::uint32_t, std::vector<std::size_t>>>>>
      all{{"unit-2", {{0, {2, 5}}}},
          {"unit-1-with-escape", {{1, {0, 1, 65'537, 70'000}}}},
          {"unit-4", {{2, {0, 15}}}},
          {"unit-8", {{3, {1, 2, 9}}}},
          {"first-range", {{4, {0, 131'071, 262'143}}}},
          {"last-range", {{4, {262'144, 262'153}}}},
          {"several", {{0, {1}}, {1, {70'000}}, {2, {3}}, {3, {0}}, {4, {5, 262'150}}}}};
  for (const auto& [name, deltas] : all) {
    bytes out;
    for (const auto& [tensor, elements] : deltas) add_delta(out, base, tensor, elements);
    put(frames / name, text_of(out));
    out.push_back(std::byte{2});
    put(buckets / name, text_of(out));
  }
  bytes full;
  for (std::uint32_t t = 0; t < 4; t += 2)
    kernels::encode_full(t, {{base[t].data(), base[t].size()}, fuzz::tensor_shapes[t].unit}, 0,
                         full);
  put(frames / "full", text_of(full));
  full.push_back(std::byte{1});
  put(buckets / "full", text_of(full));
}

/// Coded frames of every unit and order, with and without exceptions and value bits.
void coded_seeds(const fs::path& dir) {
  const auto base = fuzz::make_coded_tensors();
  const auto views = fuzz::coded_views_of(base);
  kernels::delta_encoder encoder;
  for (std::uint32_t t = 0; t < base.size(); ++t) {
    const auto unit = fuzz::coded_shapes[t].unit;
    for (const unsigned every : {200u, 20u})
      for (const unsigned add : {1u, 3u, 0x25u}) {
        auto target = base[t];
        for (std::size_t i = 0; i < target.size() / unit; i += 1 + (i * 7 + add) % every)
          target[i * unit] =
              static_cast<std::byte>(std::to_integer<unsigned>(target[i * unit]) + add);
        for (unsigned order = 0; order < (unit == 1 ? 3u : 2u); ++order) {
          auto model = kernels::plan_classes(views[t], {{target.data(), target.size()}, unit});
          model.order = static_cast<kernels::step_order>(order);
          bytes out;
          encoder.encode(t, views[t], {{target.data(), target.size()}, unit}, 0, model,
                         kernels::encoding_choice::coded, out);
          put(dir / ("tensor-" + std::to_string(t) + "-every-" + std::to_string(every) + "-add-" +
                     std::to_string(add) + "-order-" + std::to_string(order)),
              text_of(out));
        }
      }
  }
}

void settings_seeds(const fs::path& dir) {
  settings_loader loader;
  const std::string defaults = settings_toml(loader.effective());
  put(dir / "defaults", defaults);
  std::string overrides(1, '\0');
  std::string variables(1, '\0');
  for (const auto& entry : loader.effective()) {
    overrides += std::string(entry.key) + "=" + entry.value + "\n";
    variables += environment_name(entry.key) + "=" + entry.value + "\n";
  }
  put(dir / "overrides", overrides);
  put(dir / "variables", variables);
  int count = 0;
  for (const std::string value : {"\"x\"", "-1", "1.5", "true", "[1]", "{a=1}", "1979-05-27"}) {
    put(dir / ("type-" + std::to_string(count)), "[sync]\nmembers_min = " + value + "\n");
    put(dir / ("section-" + std::to_string(count++)), "sync = " + value + "\n");
  }
  put(dir / "all-three", "[sync]\nmembers_min = 2\n[log]\nlevel = \"info\"\n" +
                             overrides.substr(0, 60) + "\nLOCKSTEP_LOG_FILE=\xc3\xa9.log\n");
}

void message_seeds(const fs::path& dir) {
  message_source source(1);
  for (std::size_t kind = 0; kind < wire_kinds; ++kind)
    for (const std::string draw : {"-1", "-2"}) {
      const auto m = source.draw(kind);
      put(dir / (std::string(name_of(m)) + draw), text_of(encode_message(m)));
    }
}

void greeting_seeds(const fs::path& dir) {
  greeting g;
  g.cluster = 7;
  g.id = 3;
  g.link = {1, 2};
  g.payload_bytes_max = 4 << 20;
  put(dir / "nameless", text_of(encode_greeting(g)));
  g.name = "receiver-3";
  g.program = "lockstep 0.1.0";
  g.purpose = channel_purpose::bulk;
  g.stream = 2;
  put(dir / "bulk", text_of(encode_greeting(g)));
  greeting_answer a;
  a.self = g;
  a.self.role = node_role::trainer;
  put(dir / "welcome", text_of(encode_answer(a)));
  a.verdict = failure{errc::wrong_cluster, "belongs to another cluster"};
  put(dir / "refusal", text_of(encode_answer(a)));
  const auto header = encode_bulk_header({{7, {8, 9}, {10, 11}}, 12, 13});
  put(dir / "frame", text_of({header.begin(), header.end()}));
  auto other = encode_greeting(g);
  other[3] = std::byte{2};
  put(dir / "version-2", text_of(other));
}

void http_seeds(const fs::path& dir) {
  const auto seed = [&](const std::string& name, const std::vector<std::string>& lines,
                        const std::string& body = {}) {
    std::string text;
    for (const auto& line : lines) text += line + "\r\n";
    put(dir / name, text + "\r\n" + body);
  };
  const std::string host = "Host: 127.0.0.1:30100";
  const std::string chunked = "Transfer-Encoding: chunked";
  seed("quick", {"GET /quick HTTP/1.1", host});
  seed("quick-and-close", {"GET /quick HTTP/1.1", host, "Connection: close"});
  seed("old", {"GET /quick HTTP/1.0"});
  seed("fails", {"GET /fails HTTP/1.1", host});
  seed("slow", {"POST /slow HTTP/1.1", host, "Content-Length: 15"}, R"({"version": 12})");
  seed("fails-slowly", {"POST /fails-slowly HTTP/1.1", host, "Content-Length: 2"}, "{}");
  seed("chunks", {"POST /slow HTTP/1.1", host, chunked},
       "4\r\n{\"a\"\r\n3;x=y\r\n: 1\r\n1\r\n}\r\n0\r\nTrailer: t\r\n\r\n");
  seed("body-too-long", {"POST /slow HTTP/1.1", host, "Content-Length: 1025"});
  seed("chunk-too-long", {"POST /slow HTTP/1.1", chunked}, "ffffffffffffffff\r\nx");
  seed("chunks-too-long", {"POST /slow HTTP/1.1", chunked},
       "400\r\n" + std::string(1024, 'x') + "\r\n400\r\n" + std::string(1024, 'y') + "\r\n");
  seed("header-too-long", {"GET /" + std::string(600, 'x') + " HTTP/1.1"});
  seed("two-lengths", {"POST / HTTP/1.1", "Content-Length: 1", "Content-Length: 2"}, "ab");
  seed("length-and-chunks", {"POST / HTTP/1.1", "Content-Length: 1", chunked}, "0\r\n\r\n");
  seed("negative-length", {"POST / HTTP/1.1", "Content-Length: -1"});
  seed("folded", {"GET /quick HTTP/1.1", "Host: a", " b"});
  std::string many;
  for (int i = 0; i < 40; ++i) many += "GET /quick HTTP/1.1\r\n\r\nGET /slow HTTP/1.1\r\n\r\n";
  put(dir / "one-after-the-other", many);
  seed("answer", {"HTTP/1.1 200 OK", "Content-Length: 17"}, R"({"success": true})");
  seed("answer-in-chunks", {"HTTP/1.1 200 OK", chunked}, "2\r\n{}\r\n0\r\n\r\n");
  seed("answer-to-the-end", {"HTTP/1.1 503 Busy"}, R"({"success": false})");
  seed("answer-cut-off", {"HTTP/1.1 200 OK", "Content-Length: 18"}, R"({"success": true})");
  seed("answer-too-long", {"HTTP/1.1 200 OK", "Content-Length: 1048577"});
  seed("answer-without-body", {"HTTP/1.1 204 No Content"});
  seed("answer-goes-on", {"HTTP/1.1 100 Continue"});
  put(dir / "address", "http://engine.example:30000");
  put(dir / "address-of-ipv6", "http://[::1]:30000");
}

/// Messages of one trainer to the receiver of fuzz/conversation.hpp.
class talk {
 public:
  talk() { attach(); }

  void attach() { say(attach_msg{next(), target(), now_.shape().fingerprint(), 77}); }

  /// The next version, and the delta to it.
  encoded_delta change() {
    auto before = now_.clone();
    for (std::size_t i = 0; i < now_.shape().count(); i += 2)
      now_.tensor(i)[now_.tensor(i).size() / 2] ^= std::byte{0x33};
    return encode_delta(now_.shape(), as_views(fuzz::spans_of(before)),
                        as_views(fuzz::spans_of(now_)), 64);
  }
  void prepare(const encoded_delta& delta, digest base, version_ref from) {
    const auto env = next();
    version_ = {1, env.txn.seq};
    say(prepare_msg{env, from, base, target(), delta.content});
    buckets(delta);
  }
  void buckets(const encoded_delta& delta) {
    for (std::uint32_t i = 0; i < delta.buckets.size(); ++i)
      say(bucket_msg{env_, i, delta.buckets[i]});
  }
  void commit() { say(commit_msg{env_, state(), 78, 1}); }
  void sync() {
    const auto base = state();
    const auto from = version_;
    prepare(change(), base, from);
    commit();
  }
  void redo(const encoded_delta& delta) {
    say(redo_msg{env_, target(), delta.content, 79, 2});
    buckets(delta);
  }
  void full() {
    const auto env = next();
    version_ = {1, env.txn.seq};
    const auto views = as_views(fuzz::spans_of(now_));
    const full_plan plan(now_.shape(), views, 64);
    say(full_begin_msg{env, target(), plan.content(), 80});
    for (std::uint32_t i = 0; i < plan.content().buckets.size(); ++i)
      say(bucket_msg{env, i, plan.make(i, views)});
  }
  /// Announced as it comes, but no frames.
  void full_of_nonsense() {
    const auto env = next();
    version_ = {1, env.txn.seq};
    const payload bucket(std::vector<std::byte>(40));
    const manifest content{
        now_.shape().fingerprint(), bucket.size(), 0, {{bucket.size(), hash_of(bucket)}}};
    say(full_begin_msg{env, target(), content, 80});
    say(bucket_msg{env, 0, bucket});
  }
  /// Weights that are not those of the target.
  void full_to_elsewhere() {
    const auto env = next();
    const auto views = as_views(fuzz::spans_of(now_));
    const full_plan plan(now_.shape(), views, 64);
    say(full_begin_msg{env, {{1, env.txn.seq}, digest{1, 2}, 5}, plan.content(), 80});
    for (std::uint32_t i = 0; i < plan.content().buckets.size(); ++i)
      say(bucket_msg{env, i, plan.make(i, views)});
  }
  /// Announced, and nothing comes.
  void announce_full(bool catch_up, std::uint64_t layout_hi) {
    const auto env = next();
    manifest content{now_.shape().fingerprint(), 8, 0, {{8, {}}}};
    content.layout.hi ^= layout_hi;
    say(full_begin_msg{env, target(), content, 80, catch_up});
  }
  void catch_up() {
    const auto delta = change();
    version_ = {1, seq_ + 1};
    attach();
    say(full_begin_msg{next(), target(), delta.content, 80, true});
    buckets(delta);
  }
  void ping() { say(ping_msg{fuzz::cluster, fuzz::life, version_}); }
  void abort() { say(abort_msg{env_}); }
  void wait(std::uint32_t ms) { say(credit_msg{env_, fuzz::id, ms}); }

  digest state() { return digest_of(public_digest_seed, as_views(fuzz::spans_of(now_))); }
  version_ref version() const { return version_; }
  const std::string& text() const { return text_; }

 private:
  envelope next() { return env_ = {fuzz::cluster, {1, ++seq_}, fuzz::life}; }
  target_info target() { return {version_, state(), 5}; }
  void say(const wire_message& m) { text_ += text_of(encode_message(m)); }

  weight_buffer now_ = fuzz::small_weights();
  version_ref version_{1, 0};
  std::uint64_t seq_ = 0;
  envelope env_;
  std::string text_;
};

void receiver_seeds(const fs::path& dir) {
  talk syncs;
  syncs.ping();
  syncs.sync();
  syncs.sync();
  put(dir / "attach-and-two-syncs", syncs.text());
  talk aborted;
  auto base = aborted.state();
  aborted.prepare(aborted.change(), base, aborted.version());
  aborted.abort();
  aborted.commit();
  aborted.wait(10'000'000);
  aborted.ping();
  put(dir / "aborted-and-late", aborted.text());
  talk full;
  full.full();
  full.sync();
  put(dir / "full-and-sync", full.text());
  talk behind;
  behind.catch_up();
  behind.sync();
  put(dir / "catch-up-and-sync", behind.text());
  talk redone;
  base = redone.state();
  const auto delta = redone.change();
  redone.prepare(delta, base, redone.version());
  redone.redo(delta);
  redone.commit();
  put(dir / "redo", redone.text());
  talk torn;
  torn.full_of_nonsense();
  torn.ping();
  torn.full();
  torn.full_to_elsewhere();
  torn.full_to_elsewhere();
  torn.full();
  put(dir / "full-of-nonsense-and-to-elsewhere", torn.text());
  talk refused;
  refused.announce_full(false, 1);
  refused.announce_full(true, 1);
  refused.announce_full(true, 0);
  refused.announce_full(false, 0);
  refused.wait(10'000'000);
  refused.wait(10'000'000);
  refused.full();
  put(dir / "announced-and-nothing-comes", refused.text());
}

void trainer_seeds(const fs::path& dir) {
  std::string all;
  const auto say = [&](const wire_message& m) { all += text_of(encode_message(m)); };
  const envelope env{fuzz::cluster, {1, 2}, fuzz::life};
  envelope other = env;
  other.inc = {1, 1};
  say(hello_msg{fuzz::cluster, fuzz::id, "r", fuzz::life, {1, 2}});
  say(credit_msg{env, fuzz::id, 0});
  say(reply_msg{env, fuzz::id, 1, reply_kind::vote_yes, errc::none, "", {}});
  say(reply_msg{other, 8, 1, reply_kind::vote_no, errc::wrong_base, "no", {}});
  say(reply_msg{env, fuzz::id, 2, reply_kind::ack, errc::none, "", {3, 4}});
  say(reply_msg{other, 8, 2, reply_kind::ack, errc::none, "", {5, 6}});
  put(dir / "rounds", all);
  all.clear();
  say(hello_msg{fuzz::cluster, fuzz::id, "r", {1, 9}, {1, 2}});
  say(hello_msg{fuzz::cluster, fuzz::id, "r", fuzz::life, {1, 2}});
  say(commit_msg{env, {}, 0, 1});
  say(pong_msg{fuzz::cluster, fuzz::id, fuzz::life, {true, receiver_phase::serving, {1, 1}, 0}});
  say(abort_msg{env});
  say(ping_msg{fuzz::cluster, fuzz::life, {1, 5'000}});
  say(goodbye_msg{fuzz::cluster, fuzz::id, fuzz::life});
  put(dir / "lives", all);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: fuzz_seeds DIR\n", stderr);
    return 2;
  }
  const fs::path dir = argv[1];
  safetensors_seeds(dir / "safetensors");
  hostile_headers(dir / "safetensors");
  index_seeds(dir / "index");
  part_seeds(dir / "part");
  stream_seeds(dir / "stream");
  host_seeds(dir / "host");
  rank_seeds(dir / "rank");
  frame_seeds(dir / "frame", dir / "bucket");
  coded_seeds(dir / "coded");
  settings_seeds(dir / "settings");
  message_seeds(dir / "message");
  greeting_seeds(dir / "greeting");
  http_seeds(dir / "http");
  receiver_seeds(dir / "receiver");
  trainer_seeds(dir / "trainer");
  fuzz::put_rare_seeds(dir);
  fuzz::put_outside_seeds(dir);
  return 0;
}
