#include "weights/workers.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <thread>

namespace lockstep {

namespace {

// Asked once: the answer is a file of the kernel's, and every pass wants it.
unsigned cores() noexcept {
  static const unsigned count = std::max(1u, std::thread::hardware_concurrency());
  return count;
}

std::atomic<unsigned> wanted{0};

/// Those who help whoever makes a pass. Made with the first pass that is worth it; they end with
/// the process.
struct crew {
  boost::asio::thread_pool* pool;
  unsigned count = 0;
  pid_t process = ::getpid();

  // Threads of the pool's own would wait for each other for ever where one cannot be started.
  crew() : pool(std::make_unique<boost::asio::thread_pool>(0).release()) {
    try {
      for (; count < cores(); ++count) std::thread([all = pool] { all->attach(); }).detach();
    } catch (const std::exception&) {
      // Then fewer.
    }
  }
};

/// Nobody in a process that was forked from one that had them.
const crew* helpers() {
  static const crew made;
  return made.process == ::getpid() && made.count > 0 ? &made : nullptr;
}

/// A pass that helpers may join while it goes on.
class gate {
 public:
  bool enter() {
    const std::lock_guard lock(mutex_);
    if (closed_) return false;
    ++inside_;
    return true;
  }
  void leave() {
    const std::lock_guard lock(mutex_);
    --inside_;
    left_.notify_all();
  }
  /// Nobody is inside once this returns, nor will be.
  void close() {
    std::unique_lock lock(mutex_);
    closed_ = true;
    left_.wait(lock, [this] { return inside_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable left_;
  bool closed_ = false;
  int inside_ = 0;
};

}  // namespace

void set_workers(unsigned count) noexcept {
  wanted = count;
}

unsigned workers() noexcept {
  const auto count = wanted.load();
  return count == 0 ? cores() : count;
}

void on_workers(std::size_t most, const std::function<void()>& work) {
  std::mutex mutex;
  std::exception_ptr failed;
  const auto guarded = [&]() noexcept {
    try {
      work();
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failed) failed = std::current_exception();
    }
  };
  const auto together = std::min<std::size_t>(most, std::min(workers(), cores()));
  const auto* const crew = together > 1 ? helpers() : nullptr;
  if (crew == nullptr) {
    guarded();
  } else {
    const auto open = std::make_shared<gate>();
    try {
      for (std::size_t i = 1; i < together; ++i)
        boost::asio::post(*crew->pool, [open, &guarded] {
          if (!open->enter()) return;  // it is over, and `guarded` with it
          guarded();
          open->leave();
        });
    } catch (const std::bad_alloc&) {
      // Then with fewer.
    }
    guarded();
    open->close();
  }
  if (failed) std::rethrow_exception(failed);
}

void for_each_index(std::size_t count, const std::function<void(std::size_t)>& work) {
  std::atomic<std::size_t> next{0};
  on_workers(count, [&] {
    try {
      for (std::size_t i = next++; i < count; i = next++) work(i);
    } catch (...) {
      next = count;
      throw;
    }
  });
}

batches::batches(const std::vector<kernels::tensor_view>& tensors) {
  std::size_t open = 0;  // bytes of the batch that is not closed yet
  const auto close = [&] {
    ends_.push_back(parts_.size());
    open = 0;
  };
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto size = tensors[i].bytes.size;
    for (std::size_t at = 0; at < size; at += bytes_max) {
      const auto bytes = std::min(bytes_max, size - at);
      if (open > 0 && open + bytes > bytes_max) close();
      parts_.push_back({static_cast<std::uint32_t>(i), at, bytes});
      open += bytes;
    }
  }
  if (open > 0) close();
}

}  // namespace lockstep
