// Decides the seeds of `message`, `packed`, `greeting`, `connection`, `dial` and `port`.
#include <sys/socket.h>
#include <unistd.h>
#include <xxhash.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "actors/packed.hpp"
#include "fuzz/connection.hpp"
#include "fuzz/conversation.hpp"
#include "fuzz/seed_files.hpp"
#include "messages/relays.hpp"
#include "support/sample_messages.hpp"
#include "transport/bulk_frame.hpp"
#include "transport/greeting.hpp"
#include "transport/security_impl.hpp"
#include "weights/shard.hpp"

namespace lockstep::fuzz {

namespace fs = std::filesystem;

namespace {

void message_seeds(const fs::path& dir) {
  message_source source(1);
  for (std::size_t kind = 0; kind < wire_kinds; ++kind)
    for (const std::string draw : {"-1", "-2"}) {
      const auto m = source.draw(kind);
      put(dir / (std::string(name_of(m)) + draw), text_of(encode_message(m)));
    }
}

void rare_message_seeds(const fs::path& dir) {
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

void rare_greeting_seeds(const fs::path& dir) {
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

/// A frame that says so many bytes, and those that are there.
std::string bulk_frame(std::size_t length, std::size_t there) {
  const auto head = encode_bulk_header({{7, {8, 9}, {10, 11}}, 12, length, 13});
  return std::string(reinterpret_cast<const char*>(head.data()), head.size()) +
         std::string(there, 'b');
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
  const auto frame = bulk_frame;
  const auto frames = frame(0, 0) + frame(1, 1) + frame(100, 100);
  g.purpose = channel_purpose::control;
  const auto control = text_of(encode_greeting(g)) + std::string(200, 'c');
  const auto clear = how(peer_kind::clear);
  put(dir / "frames", clear + bulk + frames);
  std::string many;
  for (int i = 0; i < 40; ++i) many += frame(100, 100);
  put(dir / "many-frames", clear + bulk + many);
  put(dir / "many-frames-under-tls", how(peer_kind::knows) + bulk + many);
  put(dir / "frames-by-the-byte", how(peer_kind::clear, 0, 1) + bulk + frames);
  put(dir / "frames-under-tls", how(peer_kind::knows) + bulk + frames);
  put(dir / "frames-under-tls-in-pieces", how(peer_kind::knows, 0, 50) + bulk + frames);
  put(dir / "control", clear + control);
  put(dir / "control-under-tls", how(peer_kind::knows, 0, 100) + control);
  const auto longer = control + std::string(12'000, 'd');
  put(dir / "control-of-much", clear + longer);
  put(dir / "control-of-much-under-tls", how(peer_kind::knows) + longer);
  put(dir / "control-unheard", how(peer_kind::clear, peer_deaf) + longer);
  put(dir / "control-unheard-under-tls", how(peer_kind::knows, peer_deaf) + longer);
  put(dir / "control-past-tls", how(peer_kind::knows, peer_breaks) + control);
  put(dir / "frames-past-tls", how(peer_kind::knows, peer_breaks) + bulk + frames);
  put(dir / "frames-cut-off-before-tls-ends", how(peer_kind::knows, peer_breaks) + bulk);
  g.name = brief_name;
  const auto brief = text_of(encode_greeting(g));
  put(dir / "control-hung-up", clear + brief + std::string(200, 'c'));
  put(dir / "control-hung-up-under-tls", how(peer_kind::knows) + brief + std::string(200, 'c'));
  put(dir / "control-hung-up-in-pieces", how(peer_kind::knows, 0, 1) + brief + "c");
  g.name = "r3";
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

/// As above, of `dial`, whose third byte says who is wanted and where.
std::string dials(peer_kind kind, unsigned wanted = 0, unsigned more = 0, unsigned chunk = 0) {
  return how(kind, more, chunk) + static_cast<char>(wanted);
}

std::string dials_at(dial_place place) {
  return dials(peer_kind::clear, static_cast<unsigned>(place) << 4);
}

void dial_seeds(const fs::path& dir) {
  greeting_answer answer;
  answer.self = listener_greeting();
  answer.self.link = {1, 2};
  const auto welcome = text_of(encode_answer(answer));
  const auto control = welcome + std::string(200, 'c');
  const auto frames = welcome + bulk_frame(0, 0) + bulk_frame(1, 1) + bulk_frame(100, 100);
  const auto clear = dials(peer_kind::clear);
  put(dir / "control", clear + control);
  put(dir / "control-by-the-byte", dials(peer_kind::clear, 0, 0, 1) + control);
  put(dir / "control-under-tls", dials(peer_kind::knows) + control);
  put(dir / "control-under-tls-in-pieces", dials(peer_kind::knows, 0, 0, 50) + control);
  put(dir / "frames", dials(peer_kind::clear, dial_bulk) + frames);
  put(dir / "frames-by-the-byte", dials(peer_kind::clear, dial_bulk, 0, 1) + frames);
  put(dir / "frames-under-tls", dials(peer_kind::knows, dial_bulk) + frames);
  put(dir / "frame-too-long",
      dials(peer_kind::clear, dial_bulk) + welcome + bulk_frame(1 << 20, 9));
  put(dir / "by-name", dials_at(dial_place::name) + control);
  put(dir / "elsewhere", dials_at(dial_place::elsewhere) + control);
  put(dir / "nobody", dials_at(dial_place::nobody));
  put(dir / "a-trainer-for-a-receiver", dials(peer_kind::clear, dial_receiver) + control);
  put(dir / "nothing", clear);
  put(dir / "nothing-under-tls", dials(peer_kind::knows));
  put(dir / "half-an-answer", clear + welcome.substr(0, welcome.size() / 2));
  put(dir / "something-else", clear + "HTTP/1.1 400 Bad Request\r\n\r\n");
  put(dir / "stays-silent", dials(peer_kind::clear, 0, peer_stays));
  put(dir / "stays-in-an-answer", dials(peer_kind::clear, 0, peer_stays) + welcome.substr(0, 30));
  put(dir / "stays-silent-under-tls", dials(peer_kind::knows, 0, peer_stays));
  put(dir / "stays", dials(peer_kind::clear, dial_bulk, peer_stays) + frames);
  put(dir / "slams", dials(peer_kind::clear, dial_slams) + control);
  put(dir / "slams-with-nothing", dials(peer_kind::clear, dial_slams));
  put(dir / "slams-under-tls", dials(peer_kind::knows, dial_bulk | dial_slams) + frames);
  put(dir / "wrong-key", dials(peer_kind::guesses) + control);
  put(dir / "certificate", dials(peer_kind::knows, 0, peer_certified) + control);
  put(dir / "certificate-of-another-role",
      dials(peer_kind::knows, dial_receiver, peer_certified) + control);
  put(dir / "certificate-for-a-key", dials(peer_kind::guesses, 0, peer_certified) + control);
  put(dir / "clear-to-tls", dials(peer_kind::stranger) + control);
  put(dir / "clear-to-tls-that-waits", dials(peer_kind::stranger, 0, peer_stays));
  put(dir / "an-alert-to-tls", dials(peer_kind::stranger) + std::string("\x15\3\3\0\2\2\x28", 7));
  put(dir / "past-tls", dials(peer_kind::knows, 0, peer_breaks) + welcome);
  put(dir / "past-tls-after-the-answer",
      dials(peer_kind::knows, dial_bulk, peer_breaks) + welcome + std::string(400, 'f'));
  auto other = welcome;
  other[3] = 9;
  put(dir / "other-version", clear + other);
  other = welcome;
  other.back() ^= 1;
  put(dir / "damaged", clear + other);
  answer.self.role = node_role::receiver;
  const auto receiver = text_of(encode_answer(answer));
  put(dir / "a-receiver", dials(peer_kind::clear, dial_receiver) + receiver);
  put(dir / "a-receiver-for-a-trainer", clear + receiver);
  put(dir / "a-receiver-with-the-papers-of-a-trainer",
      dials(peer_kind::knows, 0, peer_certified) + receiver);
  answer.self.role = node_role::trainer;
  answer.self.cluster = 8;
  put(dir / "other-cluster", clear + text_of(encode_answer(answer)));
  answer.verdict = {errc::bad_input, "not wanted here"};
  put(dir / "refused", clear + text_of(encode_answer(answer)));
  put(dir / "refused-under-tls", dials(peer_kind::knows) + text_of(encode_answer(answer)));
}

void packed_seeds(const fs::path& dir) {
  const auto seed = [&](const std::string& name, unsigned tensors, const payload& bytes) {
    put(dir / name, static_cast<char>(tensors) +
                        text_of(std::vector<std::byte>(bytes.data(), bytes.data() + bytes.size())));
  };
  seed("nothing", 0, payload());
  seed("route", 0, packed_route({{7, 1}, {std::nullopt, 1}, {3, 4}}));
  seed("route-of-all-stripes", 0,
       packed_route(std::vector<fanout_plan::place>(relay_stripes_max, {9, 2})));
  seed("route-of-too-many", 0,
       packed_route(std::vector<fanout_plan::place>(relay_stripes_max + 1, {9, 2})));
  seed("receivers", 0, packed_ids({1, 2, 70'000}));
  seed("receivers-that-do-not-ascend", 0, packed_ids({1, 3, 3}));
  seed("digests", 0, packed_digests({{1, 2}, {3, 4}}));
  seed("mask", 6, packed_mask({true, false, false, true, true, false}));
  seed("mask-of-more", 3, packed_mask({true, false, false, true, true, false}));
  seed("part", 10, packed_part({true, false, false, true, true, false, true, true, true, true}));
  seed("part-of-more", 9,
       packed_part({true, false, true, false, true, false, true, true, true, true}));
  seed("part-of-nothing", 7, packed_part({true, false, false, true, false, false, true}));
  seed("part-that-is-all", 7, packed_part(shard_mask(7, true)));
  seed("part-of-fewer", 20, packed_part({true, true}));
}

void port_seeds(const fs::path& dir) {
  greeting g;
  g.cluster = connection_cluster;
  g.name = "r3";
  g.program = "fuzz";
  const auto welcome = text_of(encode_greeting(g));
  g.name = unwanted_name;
  const auto unwanted = text_of(encode_greeting(g));
  g.cluster = 8;
  const auto elsewhere = text_of(encode_greeting(g));
  auto later = welcome;
  later[3] = 9;
  const auto peer = [](bool waits, const std::string& says, bool elsewhere = false) {
    return std::string{static_cast<char>((waits ? 1 : 0) | (elsewhere ? 2 : 0)),
                       static_cast<char>(says.size()), static_cast<char>(says.size() >> 8)} +
           says;
  };
  const std::string open(1, '\0');
  const std::string keyed(1, '\1');
  const std::string all = peer(false, welcome) + peer(false, unwanted) + peer(false, elsewhere) +
                          peer(false, later) + peer(false, welcome.substr(0, 9)) +
                          peer(false, "GET / HTTP/1.1\r\n\r\n") + peer(false, "");
  put(dir / "one-of-each", open + all);
  put(dir / "one-of-each-without-the-key", keyed + all);
  const std::string three = peer(true, welcome) + peer(true, "") + peer(true, elsewhere, true);
  put(dir / "all-places-taken", open + three + peer(false, welcome) + peer(true, welcome));
  put(dir / "all-places-taken-without-the-key", keyed + three + peer(false, welcome));
  put(dir / "all-places-of-one-taken", open + peer(true, welcome) + peer(true, unwanted) +
                                           peer(false, welcome) + peer(false, welcome, true) +
                                           peer(true, "", true));
  const std::string late = peer(true, "") + peer(true, "LK", true) + peer(false, welcome);
  put(dir / "nobody-speaks-in-time", std::string(1, '\4') + late);
  put(dir / "nobody-speaks-in-time-without-the-key", std::string(1, '\5') + late);
  put(dir / "a-place-left", open + peer(true, welcome) + peer(true, welcome + "more") +
                                peer(false, welcome) + peer(false, unwanted));
  put(dir / "closed-meanwhile", std::string(1, '\2') + three + peer(false, welcome));
  put(dir / "closed-meanwhile-without-the-key",
      std::string(1, '\3') + peer(true, welcome) + peer(false, welcome));
  put(dir / "much-of-nothing", open + peer(false, std::string(9'000, 'x')) + peer(false, welcome));
}

}  // namespace

void put_wire_seeds(const fs::path& dir) {
  message_seeds(dir / "message");
  rare_message_seeds(dir / "message");
  packed_seeds(dir / "packed");
  greeting_seeds(dir / "greeting");
  rare_greeting_seeds(dir / "greeting");
  connection_seeds(dir / "connection");
  dial_seeds(dir / "dial");
  port_seeds(dir / "port");
}

}  // namespace lockstep::fuzz
