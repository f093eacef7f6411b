#include "transport/greeting.hpp"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <type_traits>

namespace lockstep {

namespace {

constexpr std::array greeting_magic{std::byte{0x4c}, std::byte{0x4b}, std::byte{0x47}};  // LKG
constexpr std::array answer_magic{std::byte{0x4c}, std::byte{0x4b}, std::byte{0x41}};    // LKA
constexpr std::size_t checksum_bytes = 8;

using magic_bytes = std::array<std::byte, 3>;

std::uint64_t checksum_of(std::span<const std::byte> bytes) noexcept {
  return XXH3_64bits(bytes.data(), bytes.size());
}

bool printable(char c) noexcept {
  const auto u = static_cast<unsigned char>(c);
  return u >= 0x20 && u != 0x7f;
}

class writer {
 public:
  explicit writer(const magic_bytes& magic) {
    raw(magic);
    number(greeting_version);
    number(std::uint32_t{0});  // the length, once it is known
  }

  template <class T>
  void number(T value) {
    auto left = static_cast<std::uint64_t>(value);
    for (std::size_t i = 0; i < sizeof(T); ++i, left >>= 8)
      out_.push_back(static_cast<std::byte>(left & 0xff));
  }

  void text(std::string_view value, std::size_t max) {
    value = value.substr(0, max);
    number(static_cast<std::uint16_t>(value.size()));
    for (const char c : value) out_.push_back(static_cast<std::byte>(printable(c) ? c : '?'));
  }

  void put(const greeting& g) {
    number(g.cluster);
    number(static_cast<std::uint8_t>(g.role));
    number(static_cast<std::uint8_t>(g.purpose));
    number(g.id);
    text(g.name, greeting_name_max);
    number(g.link.hi);
    number(g.link.lo);
    number(g.stream);
    number(g.payload_bytes_max);
    number(g.control_bytes_max);
    text(g.program, greeting_program_max);
  }

  std::vector<std::byte> finish() && {
    auto length = static_cast<std::uint32_t>(out_.size() + checksum_bytes);
    for (std::size_t i = 4; i < greeting_header_bytes; ++i, length >>= 8)
      out_[i] = static_cast<std::byte>(length & 0xff);
    number(checksum_of(out_));
    return std::move(out_);
  }

 private:
  void raw(std::span<const std::byte> bytes) {
    out_.insert(out_.end(), bytes.begin(), bytes.end());
  }

  std::vector<std::byte> out_;
};

/// Takes fields from bytes; the first that is not there or not allowed stops it.
class reader {
 public:
  explicit reader(std::span<const std::byte> bytes) : left_(bytes) {}

  template <class T>
  bool number(T& value) {
    if (left_.size() < sizeof(T)) return false;
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i)
      sum |= std::to_integer<std::uint64_t>(left_[i]) << (8 * i);
    value = static_cast<T>(sum);
    left_ = left_.subspan(sizeof(T));
    return true;
  }

  template <class E>
  bool enumerator(E& value) {
    std::underlying_type_t<E> raw = 0;
    if (!number(raw) || raw > static_cast<std::underlying_type_t<E>>(E::last_)) return false;
    value = static_cast<E>(raw);
    return true;
  }

  bool text(std::string& value, std::size_t max) {
    std::uint16_t size = 0;
    if (!number(size) || size > max || size > left_.size()) return false;
    value.resize(size);
    std::ranges::transform(left_.first(size), value.begin(),
                           [](std::byte b) { return std::to_integer<char>(b); });
    left_ = left_.subspan(size);
    return std::ranges::all_of(value, printable);
  }

  bool get(greeting& g) {
    return number(g.cluster) && enumerator(g.role) && enumerator(g.purpose) && number(g.id) &&
           text(g.name, greeting_name_max) && number(g.link.hi) && number(g.link.lo) &&
           number(g.stream) && number(g.payload_bytes_max) && number(g.control_bytes_max) &&
           text(g.program, greeting_program_max);
  }

  bool at_end() const noexcept { return left_.empty(); }

 private:
  std::span<const std::byte> left_;
};

failure bad_frame(const char* what) {
  return {errc::bad_frame, what};
}

std::variant<std::size_t, failure> frame_bytes(
    const magic_bytes& magic, std::span<const std::byte, greeting_header_bytes> header) {
  if (!std::ranges::equal(header.first<3>(), magic))
    return bad_frame("the first bytes are no greeting of ours");
  const auto version = std::to_integer<unsigned>(header[3]);
  if (version != greeting_version)
    return failure{errc::wrong_version, "speaks version " + std::to_string(version) + ", not " +
                                            std::to_string(greeting_version)};
  std::uint32_t length = 0;
  reader(header.subspan<4>()).number(length);
  if (length > greeting_bytes_max) return bad_frame("the greeting is longer than 4 KiB");
  if (length < greeting_header_bytes + checksum_bytes)
    return bad_frame("the greeting is too short");
  return std::size_t{length};
}

/// The fields of a whole frame.
std::variant<reader, failure> fields_of(const magic_bytes& magic,
                                        std::span<const std::byte> bytes) {
  if (bytes.size() < greeting_header_bytes) return bad_frame("the greeting is too short");
  const auto length = frame_bytes(magic, bytes.first<greeting_header_bytes>());
  if (const auto* why = std::get_if<failure>(&length)) return *why;
  if (std::get<std::size_t>(length) != bytes.size())
    return bad_frame("the greeting is not as long as it says");
  const auto covered = bytes.first(bytes.size() - checksum_bytes);
  std::uint64_t checksum = 0;
  reader(bytes.last(checksum_bytes)).number(checksum);
  if (checksum != checksum_of(covered))
    return failure{errc::bad_checksum, "the greeting's checksum does not match"};
  return reader(covered.subspan(greeting_header_bytes));
}

}  // namespace

std::string_view to_string(node_role role) noexcept {
  switch (role) {
    case node_role::trainer:
      return "trainer";
    case node_role::receiver:
      return "receiver";
    case node_role::observer:
      return "observer";
  }
  return "unknown";
}

std::string_view to_string(channel_purpose purpose) noexcept {
  switch (purpose) {
    case channel_purpose::control:
      return "control";
    case channel_purpose::bulk:
      return "bulk";
  }
  return "unknown";
}

std::vector<std::byte> encode_greeting(const greeting& g) {
  writer out(greeting_magic);
  out.put(g);
  return std::move(out).finish();
}

std::vector<std::byte> encode_answer(const greeting_answer& a) {
  writer out(answer_magic);
  out.number(static_cast<std::uint8_t>(a.verdict.reason));
  out.text(a.verdict.detail, answer_detail_max);
  out.put(a.self);
  return std::move(out).finish();
}

std::variant<std::size_t, failure> greeting_frame_bytes(
    std::span<const std::byte, greeting_header_bytes> header) {
  return frame_bytes(greeting_magic, header);
}

std::variant<std::size_t, failure> answer_frame_bytes(
    std::span<const std::byte, greeting_header_bytes> header) {
  return frame_bytes(answer_magic, header);
}

std::variant<greeting, failure> decode_greeting(std::span<const std::byte> bytes) {
  auto fields = fields_of(greeting_magic, bytes);
  if (auto* why = std::get_if<failure>(&fields)) return std::move(*why);
  auto& in = std::get<reader>(fields);
  greeting g;
  if (!in.get(g) || !in.at_end()) return bad_frame("a field of the greeting is not allowed");
  return g;
}

std::variant<greeting_answer, failure> decode_answer(std::span<const std::byte> bytes) {
  auto fields = fields_of(answer_magic, bytes);
  if (auto* why = std::get_if<failure>(&fields)) return std::move(*why);
  auto& in = std::get<reader>(fields);
  greeting_answer a;
  if (!in.enumerator(a.verdict.reason) || !in.text(a.verdict.detail, answer_detail_max) ||
      !in.get(a.self) || !in.at_end())
    return bad_frame("a field of the answer is not allowed");
  return a;
}

}  // namespace lockstep
