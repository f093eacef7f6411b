// Decides where connections run: one loop of events, and the threads that turn it.
#pragma once

#include <functional>
#include <memory>

namespace boost::asio {
class io_context;
}

namespace lockstep {

/// Threads for acceptors, connectors and channels, which must not outlive it. Their callbacks run
/// on these threads.
class io_threads {
 public:
  /// Starts `count` threads, at least one.
  explicit io_threads(unsigned count = 1);
  io_threads(const io_threads&) = delete;
  io_threads& operator=(const io_threads&) = delete;
  /// Stops.
  ~io_threads();

  /// Ends the threads: no callback runs once this returned. What is under way is dropped. Must not
  /// be called from a callback. Idempotent.
  void stop();

  /// Runs `task` on one of the threads, soon. Thread-safe. Dropped after `stop`.
  void post(std::function<void()> task);

  /// For the transport itself.
  boost::asio::io_context& context() noexcept;

 private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace lockstep
