#include <caf/actor_system.hpp>
#include <caf/actor_system_config.hpp>
#include <caf/binary_serializer.hpp>
#include <caf/deep_to_string.hpp>
#include <caf/message.hpp>
#include <catch2/catch.hpp>
#include <set>

#include "messages/type_ids.hpp"
#include "tests/support/allocations.hpp"
#include "tests/support/sample_messages.hpp"

using namespace lockstep;

namespace {

struct node {
  struct node_config : caf::actor_system_config {
    node_config() { add_message_types<caf::id_block::lockstep>(); }
  };
  node_config config;
  caf::actor_system system{config};

  template <class T>
  std::vector<char> save(const T& x) {
    std::vector<char> bytes;
    caf::binary_serializer out(system, bytes);
    REQUIRE_FALSE(out(x));
    return bytes;
  }

  /// What came of loading into `x`, and the bytes not read.
  template <class T>
  std::pair<bool, std::size_t> load(const std::vector<char>& bytes, T& x) {
    caf::binary_deserializer in(system, bytes);
    const auto error = in(x);
    return {!error, in.remaining()};
  }
};

std::vector<std::byte> as_wire(const std::vector<char>& bytes, std::size_t from) {
  const auto* first = reinterpret_cast<const std::byte*>(bytes.data());
  return {first + from, first + bytes.size()};
}

}  // namespace

TEST_CASE("what CAF sends between nodes is the wire form of every message") {
  node n;
  message_source source(3);
  for (std::size_t kind = 0; kind < wire_kinds; ++kind)
    for (int i = 0; i < 20; ++i) {
      const auto m = source.draw(kind);
      INFO(name_of(m));
      std::visit(
          [&]<class M>(const M& sent) {
            const auto bytes = n.save(sent);
            CHECK(as_wire(bytes, 4) == encode_message(m));
            M received;
            CHECK(n.load(bytes, received) == std::pair{true, std::size_t{0}});
            CHECK(received == sent);

            // As the middleman does it: type-erased.
            caf::message got;
            REQUIRE(n.load(n.save(caf::make_message(sent)), got).first);
            REQUIRE(got.match_elements<M>());
            CHECK(got.get_as<M>(0) == sent);
          },
          m);
    }
}

TEST_CASE("CAF refuses a message of another kind, cut short or damaged, and reads no further") {
  node n;
  message_source source(4);
  const auto ping = source.draw(1);
  const auto bytes = n.save(std::get<ping_msg>(ping));
  abort_msg other;
  CHECK_FALSE(n.load(bytes, other).first);
  CHECK(other == abort_msg{});
  ping_msg same;
  for (std::size_t length = 0; length < bytes.size(); ++length)
    CHECK_FALSE(
        n.load({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length)}, same).first);
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    auto damaged = bytes;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    CHECK_FALSE(n.load(damaged, same).first);
  }
  CHECK(same == ping_msg{});
}

TEST_CASE("a length from a hostile node allocates nothing") {
  node n;
  bucket_msg bucket;
  // The longest that a reader accepts, the longest it does not, and all that 32 bits can say.
  for (const std::uint32_t length :
       {std::uint32_t{1} << 20, static_cast<std::uint32_t>(wire_bytes_max),
        static_cast<std::uint32_t>(wire_bytes_max + 1), UINT32_MAX}) {
    auto bytes = n.save(length);
    bytes.resize(bytes.size() + 5);
    const allocation_counter counted;
    const bool loaded = n.load(bytes, bucket).first;
    CHECK(counted.bytes() < 256);  // of CAF's error
    CHECK_FALSE(loaded);
  }
}

TEST_CASE("traces show a message by its fields and a payload by its length") {
  bucket_msg m;
  m.env = {7, {3, 4}, {1, 2}};
  m.index = 9;
  m.bytes = payload(std::vector<std::byte>(17));
  const auto shown = caf::deep_to_string(m);
  INFO(shown);
  CHECK(shown.find("9, 17") != std::string::npos);
  CHECK(shown.find("3.4") != std::string::npos);
}
