// Decides how several ranks of a trainer, each with some whole tensors, publish one version.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "messages/ids.hpp"
#include "weights/publisher.hpp"

namespace lockstep {

class error;
class stream_owner;
struct rank_part;
struct rank_plan;
struct whole_state;

namespace own_key {
/// Of a version that ranks have written: the digest of each rank's own tensors after it, with
/// commas between them.
inline constexpr std::string_view rank_targets = "lockstep_rank_digests";
}  // namespace own_key

/// Most ranks of one version.
inline constexpr std::uint32_t ranks_max = 4096;

/// Which rank this is, and how it publishes.
struct rank_options {
  /// What counts is rank 0's; of the others' only `out`, how large shards get, and a `run`, if
  /// given, which must be rank 0's.
  publisher_options stream;
  std::uint32_t rank = 0;   ///< below `ranks`
  std::uint32_t ranks = 1;  ///< 1 to `ranks_max`
  /// How long rank 0 waits for the other ranks' parts once it has its own, and they for what rank 0
  /// has to do next.
  std::chrono::milliseconds patience{60'000};
  /// How long rank 0 may wait for hosts before it goes on to the next version: the others wait for
  /// its plan so much longer.
  std::chrono::milliseconds hosts_patience{0};
};

/// One rank's side of publishing into one directory. Each rank has one, in a process of its own or
/// not, on any host that sees the stream, and adds the same versions in the same order; each writes
/// the shards of its own tensors, and rank 0 the index. Not thread-safe.
class rank_publisher final : public version_publisher {
 public:
  /// Rank 0 makes the stream, locks it, and clears what killed ranks left in it. Throws `error`.
  explicit rank_publisher(rank_options options);
  rank_publisher(const rank_publisher&) = delete;
  rank_publisher& operator=(const rank_publisher&) = delete;
  ~rank_publisher() override;

  /// As publisher::add does, `base` and `target` being this rank's tensors alone; `special` is rank
  /// 0's. With own_key::challenge in it every rank proves its tensors, and the index has
  /// own_key::proof_seal. Returns when the version is visible; `bytes` are, but at rank 0, those of
  /// this rank's shards. Throws `error`
  /// besides: `timeout` that names the ranks that are missing; `wrong_layout` if two ranks have a
  /// tensor that is not the same at both, or together not those that they had before; `wrong_base`
  /// if what they start from is not what the stream holds; `bad_input` if a rank's part cannot be
  /// believed, or the ranks do not agree on what is published, or, at another rank than 0, rank 0
  /// refused for one of these reasons. Nothing is published then; a new object goes on.
  published_version add(std::uint64_t version, std::uint64_t base_version,
                        const published_source& base, const published_source& target,
                        const version_options& special = {}) override;
  /// At another rank than 0 what it was given.
  const std::string& run() const noexcept override;
  const std::filesystem::path& stream() const noexcept override { return options_.stream.out; }

 private:
  struct written;

  bool is_published(std::uint64_t version, const published_source& target, bool served);
  written write(const rank_plan& plan, const published_source& base,
                const published_source& target) const;
  published_version lead(std::uint64_t version, std::uint64_t base_version,
                         const published_source& base, const published_source& target,
                         const version_options& special);
  /// Whether what rank `rank` has to give is among `files`, ascending; takes it then.
  using taker =
      std::function<bool(std::uint32_t rank, const std::vector<std::filesystem::path>& files)>;
  void await_ranks(const rank_plan& plan, const taker& take) const;
  void collect(const rank_plan& plan, std::vector<rank_part>& parts) const;
  void require_base(const rank_plan& plan, const std::vector<rank_part>& parts,
                    const std::string& digest) const;
  void abandon() const noexcept;
  void refuse_aloud(const rank_plan& plan, const error& why) const noexcept;
  std::uint64_t publish(const rank_plan& plan, const std::vector<rank_part>& parts,
                        const published_source& target, const version_options& special);
  digest prove(const rank_plan& plan, const std::vector<rank_part>& parts, const whole_state& whole,
               std::uint64_t challenge, const published_source& target) const;
  published_version follow(std::uint64_t version, std::uint64_t base_version,
                           const published_source& base, const published_source& target);
  std::string objection(const rank_plan& plan, std::uint64_t base_version) const;
  std::optional<written> serve(const rank_plan& plan, const published_source& base,
                               const published_source& target) const;
  bool serve_order(const written& own, const published_source& target) const;
  std::filesystem::path own_file(const std::string& prefix) const;
  bool is_gone(const std::string& nonce) const;
  void clear_own_files() const;

  rank_options options_;
  std::filesystem::path staging_;
  std::string tag_;                          // tells this process's files from another's
  std::unique_ptr<stream_owner> owner_;      // rank 0's
  std::optional<layout> shape_;              // of the version that all ranks published last
  std::optional<std::uint64_t> digests_of_;  // the version whose tensors' digests are held
  std::vector<std::string> digests_;
};

}  // namespace lockstep
