// Decides which version of a stream a checkpoint can be taken for, and what proves it. Private to
// weights/ and the program.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "messages/errors.hpp"
#include "weights/checkpoint.hpp"
#include "weights/host_record.hpp"

namespace lockstep {

/// What a checkpoint can be taken for.
struct pull_start {
  std::optional<std::uint64_t> version;  ///< nothing: only a whole checkpoint helps
  std::string why;                       ///< why there is nothing: the checkpoint …
  /// What that is: `torn` if the files are damaged or a mix, else another state than is needed.
  errc reason = errc::wrong_base;
  /// What is noted of the host is not of this version of this stream, or of other files: the digest
  /// of the whole state, which was read, says what it is.
  bool by_digest = false;
  std::string state;  ///< that digest
};

/// Nothing to start from, for that reason.
pull_start nothing_held(std::string why, errc reason = errc::wrong_base);
/// What a checkpoint starts from that proved not to be what its deltas start from.
pull_start from_nothing();

/// Throws `error{wrong_base}` if `version`, which `dir` is at, is later than `target`.
void require_not_later(const std::filesystem::path& dir, std::uint64_t version,
                       std::uint64_t target);

/// The checkpoint in `dir`; nothing, and why in `none`, if there is none, or one that cannot be
/// opened: then a whole one may take its place. Throws the `try_again_error` among
/// `error{bad_input}`.
std::optional<checkpoint> open_held(const std::filesystem::path& dir, pull_start& none);
/// The same where nobody asks why.
std::optional<checkpoint> open_held(const std::filesystem::path& dir);

/// Whether `dir` is what is noted of it, a version of this very stream, as far as can be told up to
/// `target`. A checkpoint that nothing is noted of is taken at its marker's word, or for version 0.
/// Reads all of it only where what is noted does not hold. Versions below the target that cannot be
/// read say nothing. Throws `error{bad_input}`, and as `tensor_digests` where `stopping` says so.
pull_start find_start(const std::filesystem::path& source, const std::filesystem::path& dir,
                      const std::optional<std::uint64_t>& marker,
                      const std::optional<version_record>& record, std::uint64_t target,
                      const std::function<bool()>& stopping = {});

/// Whether `version`, on the way to `target`, is a full one that changes no weights and is meant
/// for other hosts than `name`, and `ours`, which holds, notes the state that it has. Throws
/// `error{bad_input}`.
bool is_for_others(const std::filesystem::path& source, std::uint64_t version, std::uint64_t target,
                   const version_record& ours, const std::string& name);

/// A tensor that does not become what it should (`why`) may be the fault of the delta in `delta`,
/// or of the checkpoint in `live`: whether that is another state than the delta says it starts
/// from. Reads all of it. Throws as `tensor_digests` where `stopping` says so, and nothing else.
bool is_by_base(const std::filesystem::path& delta, const std::filesystem::path& live,
                const error& why, const std::function<bool()>& stopping = {});

/// How much of a checkpoint is compared with what a stream says of a version.
enum class proof : std::uint8_t {
  own,  ///< the tensors that the version itself carries
  all   ///< the digest of the whole state; without one each tensor whose last checksum is there
};

/// Throws `error{wrong_base}` that names the tensor, where one can be told, if `live` is not
/// `version` of `source`, as far as `much` goes. `state`: the digest that it is known to have had,
/// or empty. Returns the length in bytes of the tensors that were compared. Throws as
/// `tensor_digests` where `stopping` says so.
std::uint64_t prove_version(const std::filesystem::path& source, const checkpoint& live,
                            std::uint64_t version, const std::string& state, proof much,
                            const std::function<bool()>& stopping = {});

}  // namespace lockstep
