// Decides how actors tell a waiting thread what became of its sync.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>

#include "actors/patience.hpp"
#include "messages/report.hpp"

namespace lockstep {

/// Shared by a ticket and the sender. Thread-safe; each event counts once.
class ticket_state {
 public:
  explicit ticket_state(std::chrono::milliseconds patience) : patience_(patience) {}

  /// The trainer's tensors are about to be read. False if the trainer has stopped waiting for that:
  /// they may be gone.
  bool begin_reading() {
    const std::lock_guard lock(mutex_);
    reading_ = !abandoned_;
    return reading_;
  }

  /// The trainer's tensors will not be read any more.
  void tensors_read() {
    const std::lock_guard lock(mutex_);
    read_ = true;
    changed_.notify_all();
  }

  void finish(sync_report report) {
    const std::lock_guard lock(mutex_);
    read_ = true;
    if (!report_) report_ = std::move(report);
    changed_.notify_all();
  }

  /// Waits until the tensors have been read. False if that has not begun by `timeout`: then it
  /// never will. Once it has begun it is waited for however long it takes, since they are the
  /// caller's.
  bool wait_read(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    const auto read = [&] { return read_; };
    if (changed_.wait_for(lock, patience_of(timeout), read)) return true;
    abandoned_ = !reading_;
    if (reading_) changed_.wait(lock, read);
    return reading_;
  }

  std::optional<sync_report> wait_report(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    // A wait of no time at all would still put the thread to sleep for a moment.
    if (!report_ && timeout.count() > 0)
      changed_.wait_for(lock, patience_of(timeout), [&] { return report_.has_value(); });
    return report_;
  }

  /// The sum of all deadlines of a sync.
  std::chrono::milliseconds patience() const noexcept { return patience_; }

 private:
  std::chrono::milliseconds patience_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool reading_ = false;
  bool read_ = false;
  bool abandoned_ = false;
  std::optional<sync_report> report_;
};

}  // namespace lockstep
