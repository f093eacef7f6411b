// Decides how a host that follows a published stream says what became of a version there.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "messages/errors.hpp"
#include "messages/ids.hpp"
#include "weights/checkpoint.hpp"

namespace lockstep {

/// What one host says of one version. The proof is the digest of all tensors as they stand in its
/// files, under the challenge that the version's index carries: it cannot be given by who does not
/// hold the bytes, nor for another publication of the same number.
struct acknowledgement {
  std::uint64_t version = 0;    ///< what was to be reached
  std::uint64_t challenge = 0;  ///< of that version, which fences it
  errc reason = errc::none;     ///< none: the checkpoint holds it
  std::string detail;           ///< one line for people; at most `reply_detail_max` bytes
  digest proof;                 ///< where `reason` is none
};

/// 1 to 64 letters, digits, dots, underscores and hyphens, the first of them no dot: what names a
/// host, and its file.
bool is_host_name(std::string_view name) noexcept;
/// Throws `error{bad_input}` unless it is one.
void require_host_name(std::string_view name);

/// Where acknowledgements of a stream stand unless told otherwise.
std::filesystem::path acknowledgements_of(const std::filesystem::path& stream);

/// Says it: `dir/NAME.json` appears whole or not at all, and replaces what was said before. Throws
/// `error{unwritable}`, `error{bad_input}` for a name that is none.
void write_acknowledgement(const std::filesystem::path& dir, std::string_view name,
                           const acknowledgement& what);
/// What `name` said last; nothing if nothing yet. Throws `error{bad_input}` on a file that is not
/// one, or is longer than 64 KiB.
std::optional<acknowledgement> read_acknowledgement(const std::filesystem::path& dir,
                                                    std::string_view name);

/// The challenge in the index of the version in `dir`; nothing if nobody waits for it. Throws
/// `error{bad_input}`.
std::optional<std::uint64_t> challenge_in(const std::filesystem::path& dir);
/// A challenge as an index holds it: 16 hexadecimal digits.
std::string challenge_text(std::uint64_t challenge);
/// Both read what `challenge_text` and `to_string` write; nothing if it is none.
std::optional<std::uint64_t> parse_challenge(std::string_view text);
std::optional<digest> parse_proof(std::string_view text);
/// What tells that a proof under a challenge is the one that was meant, and does not say which that
/// is: XXH3-128 over both as text, 32 hexadecimal digits. No defence against who means to forge it.
std::string seal_of(std::uint64_t challenge, const digest& proof);

/// What is to be said of the version in `dir` at the host whose checkpoint is `holder`; with
/// `reason` none after a read of all of it. Nothing if its publisher waits for nobody. Throws
/// `error`; `error{shut_down}` if `stopping` (may be empty) says so.
std::optional<acknowledgement> acknowledgement_of(const std::filesystem::path& dir,
                                                  std::uint64_t version,
                                                  const std::filesystem::path& holder, errc reason,
                                                  const std::string& detail,
                                                  const std::function<bool()>& stopping = {});

/// Says, as `name`, what became of the version in `dir` at the host whose checkpoint is `holder`,
/// if its publisher waits for that; with `reason` none after a read of all of it, and not again
/// what was said before. Throws likewise.
void acknowledge(const std::filesystem::path& dir, std::uint64_t version,
                 const std::filesystem::path& holder, const std::filesystem::path& acks,
                 std::string_view name, errc reason, const std::string& detail,
                 const std::function<bool()>& stopping = {});

/// Throws what it comes to that the checkpoint `holder` is at `version`, and that this could not be
/// said for `why`: `error{unreachable}`; what may go well when it is tried again, and
/// `error{shut_down}`, stay so.
[[noreturn]] void throw_unsaid(const std::filesystem::path& holder, std::uint64_t version,
                               const error& why);

/// The proof of `holder`'s tensors, read anew from its files a tensor at a time. Throws
/// `error{bad_input}`; `error{shut_down}` soon after `stopping` says so.
digest proof_of(const checkpoint& holder, std::uint64_t challenge,
                const std::function<bool()>& stopping = {});

}  // namespace lockstep
