// Every way in which bytes can fail to be a coded frame of a base. Forged frames carry a right
// checksum, so that the guard behind it is what refuses them.
#include <rapidcheck/catch.h>

#include <catch2/catch.hpp>
#include <functional>

#include "kernels/coded_table.hpp"
#include "kernels/frame_layout.hpp"
#include "tests/kernels/coded_tensors.hpp"
#include "tests/kernels/plain_coded.hpp"

using namespace lockstep::kernels;

namespace Catch {
template <>
struct StringMaker<frame_status> {
  static std::string convert(frame_status status) { return to_string(status); }
};
}  // namespace Catch

namespace {

template <class T>
void put(buffer& bytes, std::size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

/// Makes length and checksum right again.
void seal(buffer& bytes) {
  put(bytes, field::payload_bytes, static_cast<std::uint32_t>(bytes.size() - frame_header_bytes));
  put(bytes, field::checksum, frame_checksum(view(bytes)));
}

/// What becomes of bytes: refused by the reader, by the stager, or by nobody.
frame_status status_of(const buffer& bytes, tensor_view base, buffer* staged = nullptr) {
  // A copy of its own, so that the address sanitizer sees a read behind it.
  const buffer own(bytes.begin(), bytes.end());
  frame f;
  std::size_t consumed = 0;
  const auto status = parse_frame(view(own), {base}, f, consumed);
  if (status != frame_status::ok) return status;
  frame_stager stager;
  buffer out;
  staged_digest digest;
  static const digest_key key(1);
  const auto result = stager.stage(key, f, base, out, digest);
  if (result != frame_status::ok) {
    CHECK(out.empty());
    CHECK(digest.base == digest_sum{});
    CHECK(digest.change == digest_sum{});
  }
  if (staged != nullptr) *staged = out;
  return result;
}

/// A frame of 128 bf16 elements that are all 1.0: one class, ten changes up by one.
struct sample {
  buffer base = buffer(256);
  buffer bytes;

  sample() {
    for (std::size_t i = 0; i < 128; ++i) put(base, 2 * i, std::uint16_t{0x3f80});
    buffer target = base;
    for (const std::size_t i : {3u, 4u, 20u, 31u, 50u, 60u, 61u, 90u, 100u, 127u})
      target[2 * i] = std::byte{0x81};
    bytes = encode_coded(view(base, 2), view(target, 2), {});
  }

  tensor_view tensor() const { return view(base, 2); }

  /// The header, and another payload.
  buffer with(std::initializer_list<unsigned> payload, std::uint32_t count = 1) const {
    buffer result(bytes.begin(), bytes.begin() + frame_header_bytes);
    for (const unsigned byte : payload) result.push_back(static_cast<std::byte>(byte));
    std::memcpy(result.data() + field::count, &count, 3);
    seal(result);
    return result;
  }
};

}  // namespace

TEST_CASE("every flipped bit and every truncation of a coded frame is noticed") {
  const sample s;
  REQUIRE(status_of(s.bytes, s.tensor()) == frame_status::ok);
  for (std::size_t bit = 0; bit < 8 * s.bytes.size(); ++bit) {
    buffer bytes = s.bytes;
    bytes[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
    REQUIRE(status_of(bytes, s.tensor()) != frame_status::ok);
  }
  for (std::size_t length = 0; length < s.bytes.size(); ++length) {
    const buffer cut(s.bytes.begin(), s.bytes.begin() + std::ptrdiff_t(length));
    REQUIRE(status_of(cut, s.tensor()) == frame_status::truncated);
    if (length < frame_header_bytes) continue;
    buffer sealed = cut;
    seal(sealed);
    REQUIRE(status_of(sealed, s.tensor()) != frame_status::ok);
  }
}

TEST_CASE("a coded payload that no encoder writes is refused by name") {
  const sample s;
  struct row {
    const char* what;
    frame_status expected;
    buffer bytes;
  };
  using enum frame_status;
  // One class, integer order, gaps of 0 bits: a field is a sign, then a unary gap.
  const std::vector<row> rows{
      {"one change of element 3", ok, s.with({0x00, 0x00, 0x00, 0x08})},
      {"the last element", ok, s.with({0x00, 0x06, 0x3f, 0x02})},
      {"nothing", bad_table, s.with({})},
      {"a bit that means nothing", bad_table, s.with({0x80, 0x00, 0x00, 0x08})},
      {"order 3", bad_table, s.with({0x18, 0x00, 0x00, 0x08})},
      {"nibbles of two bytes", bad_table, s.with({0x10, 0x00, 0x00, 0x08})},
      {"two classes, threshold missing", bad_table, s.with({0x01})},
      {"threshold 0", bad_table, s.with({0x01, 0x00, 0x00, 0x00, 0x00, 0x08})},
      {"threshold 1", ok, s.with({0x01, 0x01, 0x00, 0x00, 0x00, 0x08})},
      {"three classes", ok, s.with({0x02, 0x05, 0x03, 0x00, 0x00, 0x00, 0x00, 0x08})},
      {"half a byte too many", bad_table, s.with({0x02, 0x05, 0x13, 0x00, 0x00, 0x00, 0x00, 0x08})},
      {"threshold 256", bad_table, s.with({0x02, 0xf8, 0x07, 0x00, 0x00, 0x00, 0x00, 0x08})},
      {"threshold 255", ok, s.with({0x02, 0xf8, 0x06, 0x01, 0x00, 0x00, 0x00, 0x08})},
      {"far thresholds", ok, s.with({0x22, 0x05, 0x16, 0x00, 0x00, 0x00, 0x00, 0x08})},
      {"near ones as far", bad_table, s.with({0x22, 0x05, 0x15, 0x00, 0x00, 0x00, 0x00, 0x08})},
      {"one as far", bad_table, s.with({0x21, 0x05, 0x00, 0x00, 0x00, 0x08})},
      {"none as far", bad_table, s.with({0x20, 0x00, 0x00, 0x08})},
      {"equal thresholds", bad_table, s.with({0x22, 0x05, 0x05, 0x00, 0x00, 0x00, 0x00, 0x08})},
      {"falling thresholds", bad_table, s.with({0x22, 0x25, 0x04, 0x00, 0x00, 0x00, 0x00, 0x08})},
      {"more in a class than in all", bad_count, s.with({0x01, 0x01, 0x02, 0x00, 0x00, 0x08})},
      {"a count of two bytes for 0", bad_table, s.with({0x01, 0x01, 0x80, 0x00, 0x00, 0x00, 0x08})},
      {"a count of four bytes", bad_table,
       s.with({0x01, 0x01, 0x80, 0x80, 0x80, 0x01, 0x00, 0x00, 0x08})},
      {"a class byte's top bit", bad_table, s.with({0x00, 0x80, 0x00, 0x08})},
      {"gaps of 21 bits", bad_table, s.with({0x00, 0x15, 0x00, 0x00, 0x00, 0x01})},
      {"value bits 0, but said", bad_table, s.with({0x00, 0x20, 0x00, 0x00, 0x08})},
      {"value bits of 16", bad_table, s.with({0x00, 0x20, 0x10, 0x00, 0x00, 0x00, 0x08})},
      {"value bits of 15", ok, s.with({0x00, 0x20, 0x0f, 0x00, 0x00, 0x08})},
      {"no exceptions, but said", bad_table, s.with({0x00, 0x40, 0x00, 0x00, 0x08})},
      {"more exceptions than changes", bad_table, s.with({0x00, 0x40, 0x02, 0x00, 0x08})},
      {"an exception", ok, s.with({0x00, 0x40, 0x01, 0x00, 0x38})},
      {"an exception past its class", bad_size, s.with({0x00, 0x40, 0x01, 0x00, 0x28})},
      {"an exception cut off", bad_size, s.with({0x00, 0x40, 0x01, 0x00, 0x18})},
      {"a step of 2^14", ok, s.with({0x00, 0x40, 0x01, 0x00, 0x18, 0x00, 0x08, 0x00, 0x00})},
      {"a step of 2^15", bad_size, s.with({0x00, 0x40, 0x01, 0x00, 0x18, 0x00, 0x10, 0x00, 0x00})},
      {"fields past the end", bad_size, s.with({0x00, 0x14, 0x00, 0x01})},
      {"no unary part", bad_size, s.with({0x00, 0x00, 0x00})},
      {"a unary part without an end", bad_position, s.with({0x00, 0x00, 0x00, 0x00})},
      {"bits behind the sign", bad_size, s.with({0x00, 0x00, 0x02, 0x08})},
      {"bits behind the unary part", bad_size, s.with({0x00, 0x00, 0x00, 0x18})},
      {"a byte too many", bad_size, s.with({0x00, 0x00, 0x00, 0x08, 0x00})},
      {"element 128", bad_position, s.with({0x00, 0x06, 0x00, 0x04})},
      {"a rank its class has not", bad_position, s.with({0x01, 0x90, 0x00, 0x00, 0x00, 0x01})},
      {"count 0", bad_count, s.with({0x00, 0x00, 0x00, 0x08}, 0)},
      {"more changes than elements", bad_count, s.with({0x00, 0x00, 0x00, 0x08}, 129)},
      {"more changes than bits", bad_size, s.with({0x00, 0x00, 0x00, 0x08}, 16)},
  };
  for (const row& r : rows) {
    INFO(r.what);
    CHECK(status_of(r.bytes, s.tensor()) == r.expected);
  }
  buffer long_payload = s.with({0x00, 0x00, 0x00, 0x08});
  long_payload.resize(frame_header_bytes + 256);
  seal(long_payload);
  CHECK(status_of(long_payload, s.tensor()) == bad_size);
}

TEST_CASE("damaged payloads mean the same to every implementation and to a plain decoder") {
  rc::prop("as the plain decoder", [] {
    std::mt19937_64 random(*rc::gen::arbitrary<std::uint64_t>());
    const auto kind = *rc::gen::elementOf(kinds());
    const auto size = *rc::gen::inRange<std::size_t>(64, 3000);
    const double density = *rc::gen::element(0.003, 0.03, 0.3);
    const auto [base, target] = make_change(random, kind, size, density);
    const tensor_view tensor = view(base, kind.unit);
    const buffer frames =
        encode_coded(tensor, view(target, kind.unit), random_model(random, kind.unit));
    if (frames.empty()) return;
    for (int attempt = 0; attempt < 40; ++attempt) {
      buffer bytes = frames;
      const std::size_t payload = bytes.size() - frame_header_bytes;
      // What stands in front decides most: damage it as often as all the rest.
      const std::size_t reach = random() % 2 == 0 ? std::min<std::size_t>(payload, 16) : payload;
      for (std::size_t n = random() % 3; n > 0; --n)
        bytes[frame_header_bytes + random() % reach] ^= static_cast<std::byte>(1u << random() % 8);
      if (random() % 4 == 0)
        bytes.resize(bytes.size() - random() % std::min(payload, std::size_t{4}));
      seal(bytes);
      frame f;
      std::size_t consumed = 0;
      if (parse_frame(view(bytes), {tensor}, f, consumed) != frame_status::ok) continue;
      if (f.encoding != frame_encoding::coded) continue;
      const auto expected = plain_decoder(f, view(base)).run();
      std::optional<frame_status> first;
      for (const auto which : available_implementations()) {
        const forced choice(which);
        buffer staged;
        const auto status = status_of(bytes, tensor, &staged);
        RC_ASSERT((status == frame_status::ok) == expected.has_value());
        RC_ASSERT(status == first.value_or(status));
        first = status;
        if (!expected) continue;
        buffer live = base;
        apply_all(staged, {tensor}, live, kind.unit);
        RC_ASSERT(live == *expected);
      }
    }
  });
}

TEST_CASE("a coded frame is not applied as it is") {
  sample s;
  bytes_view rest = view(s.bytes);
  const frame f = parse(rest, {s.tensor()});
  REQUIRE(f.encoding == frame_encoding::coded);
  const digest_key key(1);
  CHECK_THROWS_AS(change_of(key, f, s.tensor()), std::invalid_argument);
  CHECK_THROWS_AS(apply_frame(f, {{s.base.data(), s.base.size()}, 2}), std::invalid_argument);
  frame_stager stager;
  buffer out;
  staged_digest digest;
  CHECK_THROWS_AS(stager.stage(key, f, {{s.base.data(), 254}, 2}, out, digest),
                  std::invalid_argument);
  CHECK_THROWS_AS(stager.stage(key, f, {{s.base.data(), 256}, 4}, out, digest),
                  std::invalid_argument);
}
