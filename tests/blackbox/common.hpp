// Decides what the programs of the black-box test agree on: the model, a sum that is not one of
// Lockstep's, and how a line of the history is written.
//
// They include nothing of Lockstep but what is installed, and link nothing but the library.
#pragma once

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <lockstep/lockstep.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace blackbox {

/// Nanoseconds of the machine's monotonic clock, which all its processes share.
std::uint64_t now_ns();

/// Tensors of several dtypes and about `kib` KiB, a scalar and an empty one among them.
lockstep::layout model(std::size_t kib);

/// The weights of one process: pages of its own, or those of a file that outlives it.
class weights {
 public:
  /// Zeros; or what stands in `file`, which is made or grown with zeros. Empty: no file. Throws
  /// `std::system_error` if the system says no.
  weights(const lockstep::layout& shape, const std::string& file);
  ~weights();
  weights(const weights&) = delete;
  weights& operator=(const weights&) = delete;

  /// One span a tensor, in canonical order.
  const std::vector<std::span<std::byte>>& tensors() const noexcept { return tensors_; }
  /// All of them, one after another.
  std::span<std::byte> bytes() const noexcept { return {begin_, size_}; }

 private:
  std::byte* begin_ = nullptr;
  std::size_t size_ = 0;
  std::vector<std::span<std::byte>> tensors_;
};

/// FNV-1a with 64 bits over all bytes, in two parts or more: each begins with what the one before
/// came to.
inline constexpr std::uint64_t sum_of_nothing = 0xcbf29ce484222325u;
std::uint64_t sum(std::span<const std::byte> bytes, std::uint64_t before = sum_of_nothing);
std::string hex(std::uint64_t value);

/// Chance from a seed (splitmix64).
class chance {
 public:
  explicit chance(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next();
  /// Below `limit`, which is not 0.
  std::uint64_t below(std::uint64_t limit) { return next() % limit; }

 private:
  std::uint64_t state_;
};

/// One JSON object, built member by member.
class object {
 public:
  object& text(std::string_view key, std::string_view value);
  object& number(std::string_view key, std::uint64_t value);
  object& flag(std::string_view key, bool value);
  object& list(std::string_view key, const std::vector<object>& values);

  std::string str() const { return "{" + members_ + "}"; }

 private:
  object& member(std::string_view key, std::string_view json);

  std::string members_;
};

/// A line of the history: what it is, and when.
object event(std::string_view kind);
/// Writes it in one piece. By any thread.
void write(const object& line);

/// The signals SIGTERM and SIGUSR1, which only `next` takes. Made before there is any other thread.
class signals {
 public:
  signals();
  /// The next one, or 0 if none comes within `milliseconds`.
  int next(std::int64_t milliseconds) const;

 private:
  sigset_t set_{};
};

/// The settings that the environment names. Throws `lockstep::setting_error`.
lockstep::settings settings_of_environment();

}  // namespace blackbox
