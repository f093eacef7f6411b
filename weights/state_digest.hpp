// Decides how bytes that arrive piece by piece are proven, and how one digest names the state of a
// whole model in a published stream.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "weights/checkpoint.hpp"
#include "weights/published.hpp"

namespace lockstep {

/// Makes what published_digest makes of the same bytes in one piece. Movable; not thread-safe.
class published_hasher {
 public:
  explicit published_hasher(published_checksum format);
  published_hasher(published_hasher&&) noexcept;
  published_hasher& operator=(published_hasher&&) noexcept;
  ~published_hasher();

  void update(std::span<const std::byte> bytes);
  std::string digest() const;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

/// The digest of a whole state, as own_key::base and own_key::target hold it: XXH3-128, in 32
/// hexadecimal digits, over each tensor's name, a zero byte, the 32 hexadecimal digits of the
/// XXH3-128 of its bytes and a line feed, in the order of `shape`. `digests`: one for each tensor.
std::string state_digest(const layout& shape, const std::vector<std::string>& digests);
/// The same of a checkpoint on disk, all of which is read. Throws as `tensor_digests`.
std::string state_digest(const checkpoint& from, const std::function<bool()>& stopping = {});

/// The digest of each tensor of a checkpoint, on several threads, reading a window at a time.
/// Throws `error{bad_input}`, and `error{shut_down}` soon after `stopping` (may be empty; asked on
/// any of them) says so.
std::vector<std::string> tensor_digests(const checkpoint& from,
                                        published_checksum format = published_checksum::xxh3_128,
                                        const std::function<bool()>& stopping = {});
/// XXH3-128 of each of the tensors in memory.
std::vector<std::string> tensor_digests(const layout& shape, const tensor_reader& tensors);

}  // namespace lockstep
