// Decides how NCCL is used: opened when the program runs, never waited for without a deadline, and
// given up as soon as one member does not answer.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "transport/failure.hpp"

namespace lockstep {

/// NCCL, as found on this machine: the engine's own where that is loaded already. Immutable; may be
/// shared between threads.
class nccl_library {
 public:
  /// Opens `path`, a file or a name for the dynamic linker. Needs NCCL 2.14, the first with
  /// communicators that do not block. Null, with the reason in `why`, if it is not there.
  static std::shared_ptr<const nccl_library> open(const std::string& path, failure& why);

  ~nccl_library();
  nccl_library(const nccl_library&) = delete;
  nccl_library& operator=(const nccl_library&) = delete;

  /// E.g. 22809 for 2.28.9.
  int version() const noexcept;

  struct functions;
  const functions& call() const noexcept { return *functions_; }

 private:
  nccl_library();
  void* handle_ = nullptr;
  std::unique_ptr<functions> functions_;
};

/// What all members of a group must know to meet; made by one of them, told to the others.
using nccl_id = std::array<std::byte, 128>;

/// One member's part of a group of GPUs. For one thread. After any failure the group is over: it
/// has been aborted, and those that are left meet in a new one, under a new id.
class nccl_group {
 public:
  using clock = std::chrono::steady_clock;
  /// Whether the work that was enqueued on a stream is done (cudaStreamQuery). Throws what the
  /// device says, a std::exception, if it failed.
  using done_function = std::function<bool()>;

  explicit nccl_group(std::shared_ptr<const nccl_library> library);
  /// Aborts what was not left.
  ~nccl_group();
  nccl_group(const nccl_group&) = delete;
  nccl_group& operator=(const nccl_group&) = delete;

  static failure make_id(const nccl_library& library, nccl_id& id);

  /// Meets the others; every member calls it, on its own device, with another `rank` below `size`.
  /// errc::timeout if not all came before `until`.
  failure join(const nccl_id& id, int size, int rank, clock::time_point until);

  /// Enqueues on `stream` the broadcast of `bytes` bytes of the device's memory from `root` into
  /// `buffer` of all, and waits until `done`. Every member calls it. errc::timeout if it was not
  /// done before `until`, errc::dead if NCCL found somebody gone, errc::apply_failed if `done`
  /// threw.
  failure broadcast(void* buffer, std::size_t bytes, int root, void* stream,
                    const done_function& done, clock::time_point until);

  /// Ends the group without waiting for anybody. Without effect if there is none.
  void abort() noexcept;

  bool joined() const noexcept { return communicator_ != nullptr; }

 private:
  failure settle(int status, const char* what, const done_function& done, clock::time_point until);
  failure give_up(errc reason, const std::string& detail) noexcept;

  std::shared_ptr<const nccl_library> library_;
  void* communicator_ = nullptr;
};

}  // namespace lockstep
