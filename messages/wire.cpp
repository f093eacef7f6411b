#include "messages/wire.hpp"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <optional>
#include <type_traits>
#include <utility>

namespace lockstep {

namespace {

// "LKM" and the format's version.
constexpr std::array magic{std::byte{0x4c}, std::byte{0x4b}, std::byte{0x4d}, std::byte{0x02}};

constexpr std::size_t kinds = std::variant_size_v<wire_message>;

constexpr std::array<std::string_view, kinds> kind_names{
    "hello",        "ping",        "pong",         "goodbye",     "attach",        "full_begin",
    "prepare",      "bucket",      "commit",       "abort",       "redo",          "reply",
    "credit",       "welcome",     "audit",        "audit_reply", "observe",       "status_line",
    "audit_line",   "observed",    "shard_hello",  "shard_task",  "shard_result",  "shard_ship",
    "beat",         "relay_offer", "relay_parent", "relay_link",  "relay_ask",     "feed_line",
    "relayed_line", "shard_reach", "shard_route",  "shard_among", "shard_stalled", "relay_lend",
    "refused",      "failed_line"};

/// As long as in memory: see the bound on allocations.
static_assert(sizeof(bucket_info) <= bucket_info_bytes);
static_assert(wire_limits{}.buckets_max * bucket_info_bytes <= payload_bytes_max);

template <class T>
concept record = requires(T& x) {
  T::fields(x);
};

template <class T>
concept range_checked = std::is_enum_v<T> && requires {
  T::last_;
};

template <class T>
concept natural = std::is_unsigned_v<T> && !std::is_same_v<T, bool>;

bool is_control(char c) noexcept {
  return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
}

/// Longest text in bytes that a message of type `M` carries.
template <class M>
constexpr std::size_t text_max = 0;
template <>
constexpr std::size_t text_max<hello_msg> = receiver_name_max;
template <>
constexpr std::size_t text_max<reply_msg> = reply_detail_max;
template <>
constexpr std::size_t text_max<shard_result_msg> = reply_detail_max;
template <>
constexpr std::size_t text_max<relay_offer_msg> = relay_text_max;
template <>
constexpr std::size_t text_max<relay_parent_msg> = relay_text_max;
template <>
constexpr std::size_t text_max<refused_msg> = reply_detail_max;
template <>
constexpr std::size_t text_max<failed_line_msg> = observer_text_max;
template <>
constexpr std::size_t text_max<status_line_msg> = observer_text_max;
template <>
constexpr std::size_t text_max<audit_line_msg> = observer_text_max;

/// Longest payload in bytes that a message of type `M` carries, where that is less than others'.
template <class M>
constexpr std::uint64_t shorter_payload_max = UINT64_MAX;
template <>
constexpr std::uint64_t shorter_payload_max<hello_msg> = receiver_part_bytes_max;

hash128 checksum_of(std::span<const std::byte> bytes) noexcept {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.high64, hash.low64};
}

/// Adds up what a writer would write.
class sizer {
 public:
  std::uint64_t bytes = 0;

  template <record M>
  void put(const M& x) {
    std::apply([this](const auto&... field) { (this->add<M>(field), ...); }, M::fields(x));
  }

 private:
  template <class M, class T>
  void add(const T& x) {
    if constexpr (record<T>) {
      put(x);
    } else if constexpr (std::is_same_v<T, std::string>) {
      bytes += 8 + std::min(x.size(), text_max<M>);
    } else if constexpr (std::is_same_v<T, payload>) {
      bytes += 8 + x.size();
    } else if constexpr (std::is_same_v<T, std::vector<bucket_info>>) {
      bytes += 8 + x.size() * bucket_info_bytes;
    } else {
      bytes += sizeof(T);
    }
  }
};

/// Appends fields to bytes whose capacity is there already.
class writer {
 public:
  explicit writer(std::vector<std::byte>& out) : out_(out) {}

  template <natural T>
  void number(T value) {
    std::array<std::byte, sizeof(T)> little;
    for (auto& b : little) {
      b = static_cast<std::byte>(value & 0xff);
      value = static_cast<T>(std::uint64_t{value} >> 8);
    }
    raw(little);
  }

  void raw(std::span<const std::byte> bytes) {
    out_.insert(out_.end(), bytes.begin(), bytes.end());
  }

  template <record M>
  void put(const M& x) {
    std::apply([this](const auto&... field) { (this->add<M>(field), ...); }, M::fields(x));
  }

 private:
  template <class M, class T>
  void add(const T& x) {
    if constexpr (record<T>) {
      put(x);
    } else if constexpr (std::is_enum_v<T>) {
      number(static_cast<std::underlying_type_t<T>>(x));
    } else if constexpr (std::is_same_v<T, bool>) {
      number(static_cast<std::uint8_t>(x));
    } else if constexpr (std::is_same_v<T, std::string>) {
      const auto text = std::string_view(x).substr(0, text_max<M>);
      number(std::uint64_t{text.size()});
      for (const char c : text) out_.push_back(static_cast<std::byte>(is_control(c) ? '?' : c));
    } else if constexpr (std::is_same_v<T, payload>) {
      number(std::uint64_t{x.size()});
      raw({x.data(), x.size()});
    } else if constexpr (std::is_same_v<T, std::vector<bucket_info>>) {
      number(std::uint64_t{x.size()});
      for (const auto& b : x) put(b);
    } else {
      number(x);
    }
  }

  std::vector<std::byte>& out_;
};

/// Takes fields from bytes. The first that is not there or not allowed stops it, and stays.
class reader {
 public:
  reader(std::span<const std::byte> bytes, const wire_limits& limits)
      : left_(bytes), limits_(limits) {}

  template <natural T>
  bool number(T& value) {
    std::span<const std::byte> little;
    if (!take(sizeof(T), little)) return false;
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i)
      sum |= std::to_integer<std::uint64_t>(little[i]) << (8 * i);
    value = static_cast<T>(sum);
    return true;
  }

  template <record M>
  bool get(M& x) {
    return std::apply([this](auto&... field) { return (this->add<M>(field) && ...); },
                      M::fields(x));
  }

  bool finish() { return left_.empty() || fail(errc::bad_frame, "bytes follow the last field"); }

  errc reason() const noexcept { return reason_; }
  const char* what() const noexcept { return what_; }
  std::size_t left() const noexcept { return left_.size(); }

 private:
  bool fail(errc reason, const char* what) {
    reason_ = reason;
    what_ = what;
    return false;
  }

  bool take(std::uint64_t count, std::span<const std::byte>& out) {
    if (count > left_.size()) return fail(errc::bad_frame, "the bytes end inside a field");
    out = left_.first(static_cast<std::size_t>(count));
    left_ = left_.subspan(static_cast<std::size_t>(count));
    return true;
  }

  /// A count of things of `unit` bytes each, all of which are there, and takes their bytes.
  bool counted(std::uint64_t count_max, std::size_t unit, const char* too_many,
               std::span<const std::byte>& out) {
    std::uint64_t count = 0;
    if (!number(count)) return false;
    if (count > count_max) return fail(errc::bad_manifest, too_many);
    if (count > left_.size() / unit) return fail(errc::bad_frame, "the bytes end inside a field");
    return take(count * unit, out);
  }

  template <class M, class T>
  bool add(T& x) {
    if constexpr (record<T>) {
      return get(x);
    } else if constexpr (std::is_enum_v<T>) {
      static_assert(range_checked<T>);
      std::underlying_type_t<T> value = 0;
      if (!number(value)) return false;
      if (value > static_cast<std::underlying_type_t<T>>(T::last_))
        return fail(errc::bad_frame, "no such enumerator");
      x = static_cast<T>(value);
      return true;
    } else {
      return take_into<M>(x);
    }
  }

  template <class M>
  bool take_into(natural auto& x) {
    return number(x);
  }

  template <class M>
  bool take_into(bool& x) {
    std::uint8_t value = 0;
    if (!number(value)) return false;
    if (value > 1) return fail(errc::bad_frame, "a truth value that is neither 0 nor 1");
    x = value == 1;
    return true;
  }

  template <class M>
  bool take_into(std::string& x) {
    std::span<const std::byte> bytes;
    if (!counted(text_max<M>, 1, "a text above its bound", bytes)) return false;
    x.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    // It ends in logs and on terminals, where it must not pass for more than one line of text.
    if (std::any_of(x.begin(), x.end(), is_control))
      return fail(errc::bad_frame, "a control character in a text");
    return true;
  }

  template <class M>
  bool take_into(payload& x) {
    std::span<const std::byte> bytes;
    if (!counted(std::min(limits_.payload_bytes_max, shorter_payload_max<M>), 1,
                 "a payload above the limit", bytes))
      return false;
    if (!bytes.empty()) x = payload(std::vector<std::byte>(bytes.begin(), bytes.end()));
    return true;
  }

  template <class M>
  bool take_into(std::vector<bucket_info>& x) {
    std::span<const std::byte> bytes;
    if (!counted(limits_.buckets_max, bucket_info_bytes, "more buckets than the limit", bytes))
      return false;
    x.resize(bytes.size() / bucket_info_bytes);
    reader entries(bytes, limits_);
    for (auto& b : x) entries.get(b);
    return true;
  }

  std::span<const std::byte> left_;
  const wire_limits& limits_;
  errc reason_ = errc::none;
  const char* what_ = "";
};

using result = std::variant<wire_message, wire_failure>;

result refuse(errc reason, std::string_view what) {
  return result(std::in_place_index<1>, wire_failure{reason, std::string(what)});
}

template <std::size_t Kind>
result decode_fields(std::span<const std::byte> body, const wire_limits& limits) {
  result out(std::in_place_index<0>, std::in_place_index<Kind>);
  reader in(body, limits);
  if (in.get(std::get<Kind>(*std::get_if<0>(&out))) && in.finish()) return out;
  std::string detail(kind_names[Kind]);
  detail.append(", ").append(std::to_string(in.left())).append(" bytes before the end: ");
  return refuse(in.reason(), detail.append(in.what()));
}

using decoder = result (*)(std::span<const std::byte>, const wire_limits&);

template <std::size_t... Kind>
constexpr std::array<decoder, kinds> decoders_of(std::index_sequence<Kind...>) {
  return {decode_fields<Kind>...};
}

constexpr auto decoders = decoders_of(std::make_index_sequence<kinds>());

}  // namespace

std::string_view name_of(const wire_message& m) noexcept {
  return m.index() < kinds ? kind_names[m.index()] : "unknown";
}

std::vector<std::byte> encode_message(const wire_message& m) {
  return std::visit(
      [&](const auto& x) {
        sizer size;
        size.put(x);
        std::vector<std::byte> out;
        out.reserve(wire_header_bytes + static_cast<std::size_t>(size.bytes) + wire_checksum_bytes);
        writer to(out);
        to.raw(magic);
        to.number(static_cast<std::uint32_t>(m.index()));
        to.number(size.bytes);
        to.put(x);
        to.put(checksum_of(out));
        return out;
      },
      m);
}

std::variant<wire_message, wire_failure> decode_message(std::span<const std::byte> bytes,
                                                        const wire_limits& limits) {
  if (bytes.size() < wire_header_bytes + wire_checksum_bytes)
    return refuse(errc::bad_frame, "shorter than any message");
  if (!std::equal(magic.begin(), magic.end(), bytes.begin()))
    return refuse(errc::bad_frame, "no message, or of another format version");
  reader header(bytes.subspan(magic.size()), limits);
  std::uint32_t kind = 0;
  std::uint64_t length = 0;
  header.number(kind);
  header.number(length);
  if (length != bytes.size() - wire_header_bytes - wire_checksum_bytes)
    return refuse(errc::bad_frame, "the length is not that of the bytes");
  const auto body = bytes.subspan(wire_header_bytes, static_cast<std::size_t>(length));
  hash128 announced;
  reader(bytes.last(wire_checksum_bytes), limits).get(announced);
  if (checksum_of(bytes.first(bytes.size() - wire_checksum_bytes)) != announced)
    return refuse(errc::bad_checksum, "the checksum is not that of the bytes");
  if (kind >= kinds) return refuse(errc::bad_frame, "no such kind of message");
  return decoders[kind](body, limits);
}

std::optional<std::uint64_t> announced_bytes(std::span<const std::byte> bytes) noexcept {
  const auto seen = std::min(bytes.size(), magic.size());
  if (!std::equal(magic.begin(), magic.begin() + static_cast<std::ptrdiff_t>(seen), bytes.begin()))
    return 0;
  if (bytes.size() < wire_header_bytes) return std::nullopt;
  const wire_limits limits;
  reader header(bytes.subspan(magic.size()), limits);
  std::uint32_t kind = 0;
  std::uint64_t length = 0;
  header.number(kind);
  header.number(length);
  if (kind >= kinds) return 0;
  constexpr std::uint64_t around = wire_header_bytes + wire_checksum_bytes;
  return length > UINT64_MAX - around ? UINT64_MAX : length + around;
}

}  // namespace lockstep
