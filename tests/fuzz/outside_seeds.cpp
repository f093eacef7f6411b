// Decides the seeds of what others do on a port or in a stream of ours: `connection`, `follow` and
// `address`.
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fuzz/connection.hpp"
#include "fuzz/follow_files.hpp"
#include "fuzz/seed_files.hpp"
#include "transport/bulk_frame.hpp"
#include "transport/greeting.hpp"
#include "transport/security_impl.hpp"
#include "weights/checkpoint.hpp"
#include "weights/published.hpp"
#include "weights/publisher.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep::fuzz {

namespace fs = std::filesystem;

namespace {

using named_files = std::vector<std::pair<std::string, std::string>>;

// --- connection

std::string how(peer_kind kind, unsigned more = 0, unsigned chunk = 0) {
  return {static_cast<char>(static_cast<unsigned>(kind) | more), static_cast<char>(chunk)};
}

/// The first words of a TLS client that knows the key, which nobody can use again.
std::string first_flight(const fs::path& scratch) {
  put(scratch / "key", std::string(64, '5'));
  fs::permissions(scratch / "key", fs::perms::owner_read | fs::perms::owner_write);
  security_options with;
  with.shared_key_file = scratch / "key";
  const security guard(with);
  std::array<int, 2> ends{};
  demand(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends.data()) == 0, "two sockets");
  const auto stream = guard.internals().wrap(ends[0], false);
  (void)stream->handshake();
  std::string said(4096, '\0');
  const auto got = ::recv(ends[1], said.data(), said.size(), MSG_DONTWAIT);
  demand(got > 0, "a client speaks first");
  said.resize(static_cast<std::size_t>(got));
  ::close(ends[0]);
  ::close(ends[1]);
  return said;
}

void connection_seeds(const fs::path& dir) {
  greeting g;
  g.cluster = connection_cluster;
  g.purpose = channel_purpose::bulk;
  g.id = 3;
  g.name = "r3";
  g.link = {1, 2};
  g.payload_bytes_max = 1 << 20;
  g.program = "fuzz";
  const auto bulk = text_of(encode_greeting(g));
  const auto frame = [](std::size_t length, std::size_t there) {
    const auto head = encode_bulk_header({{7, {8, 9}, {10, 11}}, 12, length, 13});
    return std::string(reinterpret_cast<const char*>(head.data()), head.size()) +
           std::string(there, 'b');
  };
  const auto frames = frame(0, 0) + frame(1, 1) + frame(100, 100);
  g.purpose = channel_purpose::control;
  const auto control = text_of(encode_greeting(g)) + std::string(200, 'c');
  const auto clear = how(peer_kind::clear);
  put(dir / "frames", clear + bulk + frames);
  put(dir / "frames-by-the-byte", how(peer_kind::clear, 0, 1) + bulk + frames);
  put(dir / "frames-under-tls", how(peer_kind::knows) + bulk + frames);
  put(dir / "frames-under-tls-in-pieces", how(peer_kind::knows, 0, 50) + bulk + frames);
  put(dir / "control", clear + control);
  put(dir / "control-under-tls", how(peer_kind::knows, 0, 100) + control);
  put(dir / "wrong-key", how(peer_kind::guesses) + bulk + frames);
  put(dir / "clear-to-tls", how(peer_kind::stranger) + bulk + frames);
  const auto scratch = dir / "scratch";
  put(dir / "tls-again", how(peer_kind::stranger) + first_flight(scratch));
  fs::remove_all(scratch);
  put(dir / "frame-cut-off", clear + bulk + frame(100, 50));
  put(dir / "header-cut-off", clear + bulk + frame(0, 0).substr(0, 40));
  put(dir / "frame-too-long", clear + bulk + frame(1 << 20, 50));
  put(dir / "frame-damaged", clear + bulk + frame(5, 5).replace(20, 1, "x"));
  put(dir / "no-frame", clear + bulk + std::string(80, 'n'));
  put(dir / "stays", how(peer_kind::clear, peer_stays) + bulk + frames);
  put(dir / "stays-in-a-frame", how(peer_kind::clear, peer_stays) + bulk + frame(100, 50));
  put(dir / "stays-silent", how(peer_kind::clear, peer_stays));
  put(dir / "stays-silent-under-tls", how(peer_kind::knows, peer_stays) + bulk.substr(0, 9));
  put(dir / "half-a-greeting", clear + bulk.substr(0, bulk.size() / 2));
  put(dir / "nothing", clear);
  put(dir / "something-else", clear + "GET / HTTP/1.1\r\n\r\n");
  auto other = bulk;
  other[3] = 9;
  put(dir / "other-version", clear + other);
  g.cluster = 8;
  put(dir / "other-cluster", clear + text_of(encode_greeting(g)));
  g.cluster = connection_cluster;
  g.name = unwanted_name;
  put(dir / "unwanted", clear + text_of(encode_greeting(g)) + frames);
  put(dir / "unwanted-under-tls", how(peer_kind::knows) + text_of(encode_greeting(g)));
}

// --- follow

std::string round(unsigned wishes, unsigned target, const named_files& files) {
  std::string out{static_cast<char>(wishes), static_cast<char>(target),
                  static_cast<char>(files.size())};
  for (const auto& [name, contents] : files) add_file(out, follow_names(), name, contents);
  return out;
}

/// What of a stream the target has names for.
named_files files_of(const fs::path& stream) {
  named_files out;
  for (const auto& name : follow_names()) {
    const std::string prefix = "source/";
    if (!name.starts_with(prefix)) continue;
    const auto file = stream / name.substr(prefix.size());
    if (fs::is_regular_file(file)) out.emplace_back(name, get(file));
  }
  return out;
}

/// A stream from the tests' base, in which every version changes a byte; those of `full` are whole.
class made_stream {
 public:
  made_stream(const fs::path& dir, const std::string& run, std::uint64_t full_every)
      : dir_(dir), now_(checkpoint::open(test_data / "published/adler32/base").shape()) {
    now_.copy_from(checkpoint::open(test_data / "published/adler32/base"));
    publisher_options o;
    o.out = dir;
    o.run = run;
    o.full_every = full_every;
    to_ = std::make_unique<publisher>(std::move(o));
  }

  made_stream& add(unsigned change, const version_options& special = {}) {
    const auto before = now_.clone();
    for (std::size_t i = 0; i < now_.shape().count(); ++i)
      if (!now_.tensor(i).empty()) now_.tensor(i).front() ^= static_cast<std::byte>(change);
    to_->add(version_ + 1, version_, source_of(before), source_of(now_), special);
    ++version_;
    return *this;
  }
  named_files files() const { return files_of(dir_); }
  named_files files_of_version(std::uint64_t version) const {
    const auto wanted = "source/" + published_dir("", version).string() + "/";
    named_files out;
    for (auto& f : files())
      if (f.first.starts_with(wanted)) out.push_back(std::move(f));
    return out;
  }

 private:
  fs::path dir_;
  weight_buffer now_;
  std::unique_ptr<publisher> to_;
  std::uint64_t version_ = 0;
};

void follow_seeds(const fs::path& dir) {
  const auto scratch = dir / "scratch";
  const auto based = static_cast<unsigned>(wish_based);
  for (const std::string format : {"adler32", "xxh3-128"}) {
    const auto all = files_of(test_data / "published" / format / "stream");
    put(dir / ("published-" + format), round(based, 0, all));
    put(dir / ("published-" + format + "-compared"),
        round(based | wish_named, 2, all) + round(wish_verify, 2, {}) + round(wish_verify, 0, {}));
    put(dir / ("published-" + format + "-without-base"), round(0, 0, all));
    put(dir / ("published-" + format + "-marked-by-others"),
        round(based, 1, all) +
            round(0, 0, {{"checkpoint/.weight_sync/state.json", R"({"version":"000000"})"}}));
  }
  made_stream deltas(scratch / "deltas", "run", 0);
  for (unsigned v = 1; v <= 10; ++v) deltas.add(v);
  const auto chain = deltas.files();
  put(dir / "ten-deltas", round(based, 0, chain));
  put(dir / "ten-deltas-stopped", round(based | wish_stop, 0, chain) + round(based, 0, {}));
  auto cut = chain;
  std::erase_if(cut, [](const auto& f) { return f.first.find("v000009/") != f.first.npos; });
  put(dir / "ten-deltas-one-missing", round(based, 0, cut));
  auto damaged = chain;
  for (auto& [name, contents] : damaged)
    if (name == "source/weight_v000007/" + shard)
      contents.back() = static_cast<char>(contents.back() ^ 1);
  put(dir / "ten-deltas-one-damaged", round(based, 0, damaged));
  const auto three = deltas.files_of_version(1);
  put(dir / "changed-by-others", round(based, 0, three) + round(wish_damaged, 0, {}) +
                                     round(wish_damaged | wish_verify, 0, {}));
  put(dir / "changed-and-unmarked",
      round(based, 0, three) + round(wish_damaged | wish_unmarked, 0, {}) +
          round(wish_unmarked | wish_damaged, 0, deltas.files_of_version(2)));
  put(dir / "unmarked", round(based, 0, three) + round(wish_unmarked, 0, {}) +
                            round(wish_unmarked, 0, deltas.files_of_version(2)));
  put(dir / "earlier-again", round(based, 3, chain) + round(0, 2, {}));

  made_stream full(scratch / "full", "run", 2);
  full.add(1).add(2).add(4);
  const auto mixed = full.files();
  put(dir / "full", round(0, 0, mixed));
  put(dir / "full-rebuilt",
      round(0, 2, mixed) + round(wish_rebuild, 3, {}) + round(wish_damaged | wish_verify, 3, {}));
  put(dir / "full-on-a-new-disk", round(0, 0, mixed) + round(wish_new | wish_named, 0, {}));
  put(dir / "base-rebuilt", round(based, 1, mixed) + round(based | wish_rebuild, 1, {}));
  auto false_digest = mixed;
  for (auto& [name, contents] : false_digest) {
    const auto at = contents.find("target_digest");
    if (name.ends_with(index_json) && at != contents.npos)
      contents[at + 20] = contents[at + 20] == '0' ? '1' : '0';
  }
  put(dir / "full-with-other-digest", round(0, 2, false_digest));
  put(dir / "delta-with-other-digest", round(based, 1, false_digest));

  made_stream anew(scratch / "anew", "other", 0);
  anew.add(1).add(9);
  put(dir / "another-run", round(based, 0, deltas.files_of_version(1)) + round(0, 0, anew.files()));
  put(dir / "another-run-behind", round(based, 3, chain) + round(0, 1, anew.files()));

  version_options meant;
  meant.full = true;
  meant.metadata[std::string(own_key::meant_for)] = "a,b";
  made_stream others(scratch / "others", "run", 0);
  others.add(1).add(0, meant).add(3);
  put(dir / "meant-for-others", round(based | wish_named, 1, others.files()) +
                                    round(wish_named, 2, {}) + round(wish_named, 3, {}));
  version_options asks;
  asks.metadata[std::string(own_key::challenge)] = "0123456789abcdef";
  made_stream asked(scratch / "asked", "run", 0);
  asked.add(1, asks).add(2, asks);
  put(dir / "asked", round(based | wish_named, 0, asked.files()) + round(wish_named, 0, {}));
  put(dir / "asked-without-base", round(wish_named, 0, asked.files()));
  auto unheard = asked.files();
  unheard.emplace_back("source/acks/host.json", "x");
  put(dir / "asked-after-nonsense", round(based | wish_named, 0, unheard));

  const auto model = get(test_data / "published/adler32/base/model.safetensors");
  put(dir / "lone-checkpoint", round(0, 1, {{"source/weight_v000001/model.safetensors", model}}));
  auto later = model;
  later.back() = static_cast<char>(later.back() ^ 1);
  put(dir / "lone-checkpoint-changed-in-the-stream",
      round(0, 1, {{"source/weight_v000001/model.safetensors", model}}) +
          round(wish_verify, 1, {{"source/weight_v000001/model.safetensors", later}}));
  put(dir / "nothing", round(based, 0, {}));
  put(dir / "not-published", round(based, 9, three));
  const auto link = [&](const std::string& name, unsigned where) {
    std::string out;
    add_file(out, follow_names(), name, std::string(1, static_cast<char>(where)));
    out[0] = static_cast<char>(static_cast<unsigned char>(out[0]) | follow_link);
    return out;
  };
  const auto linked = [&](unsigned wishes, const named_files& files, const std::string& more) {
    auto out = round(wishes, 1, files);
    ++out[2];
    return out + more;
  };
  put(dir / "version-is-a-link", linked(based, {}, link("source/weight_v000001", 0)));
  put(dir / "index-is-a-link",
      linked(based, three, link("source/weight_v000001/" + index_json, 4)));
  put(dir / "shard-is-a-link", linked(based, three, link("source/weight_v000001/" + shard, 1)));
  put(dir / "shard-is-a-link-to-the-same",
      linked(based,
             {{"source/weight_v000001/" + index_json,
               get(test_data / "published/adler32/stream/weight_v000001" / index_json)}},
             link("source/weight_v000001/" + shard, 5)));
  put(dir / "shard-of-a-full-one-is-a-link",
      linked(0, {}, link("source/weight_v000001/model.safetensors", 1)));
  put(dir / "left-by-killed-publishers",
      round(based, 0,
            {{"source/.lockstep-ranks/plan.json", "{}"},
             {"source/.lockstep-scratch-1/model.safetensors", "x"},
             {"source/weight_v000001/" + index_json, "{"}}));
  fs::remove_all(scratch);
}

void address_seeds(const fs::path& dir) {
  const std::vector<std::pair<std::string, std::string>> all{
      {"one", "127.0.0.1:7000"},
      {"three", "a.example:1,[::1]:2,node-3_x:65535"},
      {"zone", "[fe80::1%eth0]:80"},
      {"no-port", "host"},
      {"no-host", ":1"},
      {"port-too-large", "a:65536"},
      {"open-bracket", "[::1:1"},
      {"bare-ipv6", "::1:1"},
      {"last-is-empty", "a:1,"}};
  for (const auto& [name, text] : all) put(dir / name, text);
}

}  // namespace

void put_outside_seeds(const fs::path& dir) {
  connection_seeds(dir / "connection");
  follow_seeds(dir / "follow");
  address_seeds(dir / "address");
}

}  // namespace lockstep::fuzz
