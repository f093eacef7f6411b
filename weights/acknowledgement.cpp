#include "weights/acknowledgement.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <mutex>
#include <nlohmann/json.hpp>
#include <span>

#include "kernels/digest.hpp"
#include "messages/from_receiver.hpp"
#include "messages/one_line.hpp"
#include "messages/transient.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/host_record.hpp"
#include "weights/published.hpp"
#include "weights/stopping.hpp"
#include "weights/tensor_windows.hpp"

namespace lockstep {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr std::size_t name_max = 64;
constexpr std::size_t file_bytes_max = 64 << 10;
constexpr std::size_t word_digits = 16;

std::optional<std::uint64_t> word_in(std::string_view text) {
  std::uint64_t value = 0;
  const auto* end = text.data() + text.size();
  const auto [rest, problem] = std::from_chars(text.data(), end, value, 16);
  if (text.size() != word_digits || problem != std::errc() || rest != end) return std::nullopt;
  return value;
}

std::optional<errc> reason_named(std::string_view name) {
  for (auto i = 0; i <= static_cast<int>(errc::last_); ++i)
    if (to_string(static_cast<errc>(i)) == name) return static_cast<errc>(i);
  return std::nullopt;
}

fs::path file_of(const fs::path& dir, std::string_view name) {
  require_host_name(name);
  return dir / (std::string(name) + ".json");
}

}  // namespace

bool is_host_name(std::string_view name) noexcept {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  };
  return !name.empty() && name.size() <= name_max && name.front() != '.' &&
         std::all_of(name.begin(), name.end(), plain);
}

void require_host_name(std::string_view name) {
  if (!is_host_name(name))
    throw error(errc::bad_input, in_quotes(name) +
                                     " is no name of a host: 1 to 64 letters, "
                                     "digits, dots, underscores and hyphens");
}

fs::path acknowledgements_of(const fs::path& stream) {
  return stream / "acks";
}

namespace {

std::string text_of(const acknowledgement& what) {
  const json said{{"version", version_text(what.version)},
                  {"challenge", challenge_text(what.challenge)},
                  {"reason", to_string(what.reason)},
                  {"detail", printable(what.detail).substr(0, reply_detail_max)},
                  {"proof", to_string(what.proof)}};
  // A detail names files, whose names may be anything, and may be cut inside of a letter.
  return said.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

void write_acknowledgement(const fs::path& dir, std::string_view name,
                           const acknowledgement& what) {
  file_writer out(file_of(dir, name));
  out.write(text_of(what));
  out.commit();
}

std::optional<acknowledgement> read_acknowledgement(const fs::path& dir, std::string_view name) {
  const auto file = file_of(dir, name);
  if (!stands(file)) return std::nullopt;
  const auto said = read_object(file, file_bytes_max);
  const auto version = parse_version(text_in(said, "version"));
  const auto challenge = parse_challenge(text_in(said, "challenge"));
  const auto reason = reason_named(text_in(said, "reason"));
  const auto proof = parse_proof(text_in(said, "proof"));
  if (!version || !challenge || !reason || !proof)
    refuse(errc::bad_input, file, "is no acknowledgement");
  return acknowledgement{*version, *challenge, *reason,
                         printable(text_in(said, "detail")).substr(0, reply_detail_max), *proof};
}

namespace {

bool has_said(const fs::path& acks, std::string_view name, std::uint64_t version,
              std::uint64_t challenge) {
  try {
    const auto before = read_acknowledgement(acks, name);
    return before && before->version == version && before->challenge == challenge &&
           before->reason == errc::none;
  } catch (const error&) {
    return false;  // damaged: said anew
  }
}

acknowledgement answer_to(std::uint64_t challenge, std::uint64_t version, const fs::path& holder,
                          errc reason, const std::string& detail,
                          const std::function<bool()>& stopping) {
  acknowledgement out{version, challenge, reason, detail, {}};
  if (reason == errc::none) out.proof = proof_of(checkpoint::open(holder), challenge, stopping);
  return out;
}

}  // namespace

std::optional<acknowledgement> acknowledgement_of(const fs::path& dir, std::uint64_t version,
                                                  const fs::path& holder, errc reason,
                                                  const std::string& detail,
                                                  const std::function<bool()>& stopping) {
  const auto challenge = challenge_in(dir);
  if (!challenge) return std::nullopt;
  return answer_to(*challenge, version, holder, reason, detail, stopping);
}

void acknowledge(const fs::path& dir, std::uint64_t version, const fs::path& holder,
                 const fs::path& acks, std::string_view name, errc reason,
                 const std::string& detail, const std::function<bool()>& stopping) {
  const auto challenge = challenge_in(dir);
  if (!challenge) return;
  if (reason == errc::none && has_said(acks, name, version, *challenge)) return;
  file_writer out(file_of(acks, name));  // or all would be read for what cannot be written
  out.write(text_of(answer_to(*challenge, version, holder, reason, detail, stopping)));
  out.commit();
}

void throw_unsaid(const fs::path& holder, std::uint64_t version, const error& why) {
  const auto text = fmt::format(
      "{}: is at version {}, but that could not be said: {}; the next pull "
      "says it",
      one_line(holder.native()), version, why.what());
  if (is_transient(why)) throw try_again_error(why.code(), text);
  throw error(why.code() == errc::shut_down ? errc::shut_down : errc::unreachable, text);
}

std::optional<std::uint64_t> challenge_in(const fs::path& dir) {
  if (!has_index(dir)) return std::nullopt;
  const auto index = read_index(dir);
  const auto at = index.metadata.find(std::string(own_key::challenge));
  if (at == index.metadata.end()) return std::nullopt;
  const auto value = parse_challenge(at->second);
  if (!value)
    refuse(errc::bad_input, index.path,
           fmt::format("its {} {} is no challenge", own_key::challenge, in_quotes(at->second)));
  return value;
}

std::string challenge_text(std::uint64_t challenge) {
  return fmt::format("{:016x}", challenge);
}

std::optional<std::uint64_t> parse_challenge(std::string_view text) {
  return word_in(text);
}

std::optional<digest> parse_proof(std::string_view text) {
  const auto lane0 = word_in(text.substr(0, word_digits));
  const auto lane1 = word_in(text.substr(std::min(word_digits, text.size())));
  return lane0 && lane1 ? std::optional(digest{*lane0, *lane1}) : std::nullopt;
}

std::string seal_of(std::uint64_t challenge, const digest& proof) {
  const auto text = challenge_text(challenge) + to_string(proof);
  return published_digest(published_checksum::xxh3_128, std::as_bytes(std::span(text)));
}

digest proof_of(const checkpoint& holder, std::uint64_t challenge,
                const std::function<bool()>& stopping) {
  static_assert(tensor_window_bytes % kernels::digest_tile_bytes == 0);
  const kernels::digest_key key(challenge);
  kernels::digest_sum sum;
  std::mutex mutex;
  read_tensors(holder, [&](std::size_t i, const auto& read) {
    kernels::digest_sum own;
    read([&](std::uint64_t at, std::span<const std::byte> piece) {
      heed(stopping, holder.path());
      own += kernels::digest_range(key, static_cast<std::uint32_t>(i), at,
                                   {piece.data(), piece.size()});
    });
    const std::lock_guard lock(mutex);
    sum += own;
  });
  return {sum.lane[0], sum.lane[1]};
}

}  // namespace lockstep
