// Decides who may publish into a stream, for which run, and which versions stay. Private to
// weights/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

#include "weights/publisher.hpp"

namespace lockstep {

/// A stream that this process alone publishes into. Not thread-safe.
class stream_owner {
 public:
  /// Makes the stream if it is not there, locks it, and clears what killed publishers left. Throws
  /// `error`.
  explicit stream_owner(publisher_options options);
  stream_owner(const stream_owner&) = delete;
  stream_owner& operator=(const stream_owner&) = delete;
  ~stream_owner();

  /// As given, but with the run in place.
  const publisher_options& options() const noexcept { return options_; }
  const std::filesystem::path& path() const noexcept { return options_.out; }
  /// The newest version that was there at first; 0: none.
  std::uint64_t newest() const noexcept { return newest_; }
  bool makes_full(std::uint64_t version) const noexcept {
    return options_.full_every != 0 && version % options_.full_every == 0;
  }
  /// Whether a version was removed for a later full one, whatever others have put in its place
  /// that has no index.
  bool gone(std::uint64_t version) const;
  /// Throws `error{unwritable}` if the version in `dir` is another run's.
  void require_run(const std::filesystem::path& dir) const;
  /// The same of a delta's base, if it is in the stream.
  void require_base(std::uint64_t base_version) const;
  /// Removes what nobody needs with `newest` published; returns how many versions. Throws `error`.
  std::size_t prune(std::uint64_t newest) const;

 private:
  publisher_options options_;
  int lock_ = -1;
  std::uint64_t newest_ = 0;
  std::uint64_t newest_full_ = 0;
};

/// Where the ranks of a trainer put together a version: hidden, in the stream.
std::filesystem::path rank_staging(const std::filesystem::path& stream);
/// Takes it out of everybody's way and removes it, if it is there, whoever still writes into it.
/// Throws `error{unwritable}`.
void remove_rank_staging(const std::filesystem::path& stream);

/// The newest full version in a stream, while others may remove older ones; 0: none. Throws
/// `error{bad_input}`.
std::uint64_t newest_full_version(const std::filesystem::path& stream);

}  // namespace lockstep
