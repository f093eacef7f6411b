#include "weights/workers.hpp"

#include <algorithm>
#include <atomic>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <exception>
#include <latch>
#include <mutex>
#include <thread>

namespace lockstep {

namespace {

unsigned cores() noexcept {
  return std::max(1u, std::thread::hardware_concurrency());
}

std::atomic<unsigned> wanted{0};

/// Those who help whoever makes a pass. Made with the first pass that is worth it.
boost::asio::thread_pool& helpers() {
  static boost::asio::thread_pool pool(cores());
  return pool;
}

/// One pass: whoever is free takes the next index.
class pass {
 public:
  pass(std::size_t count, const std::function<void(std::size_t)>& work)
      : count_(count), work_(work) {}

  void run() noexcept {
    for (;;) {
      const auto i = next_.fetch_add(1, std::memory_order_relaxed);
      if (i >= count_) return;
      try {
        work_(i);
      } catch (...) {
        next_ = count_;
        const std::lock_guard lock(mutex_);
        if (!failed_) failed_ = std::current_exception();
      }
    }
  }
  void rethrow() const {
    if (failed_) std::rethrow_exception(failed_);
  }

 private:
  std::size_t count_;
  const std::function<void(std::size_t)>& work_;
  std::atomic<std::size_t> next_{0};
  std::mutex mutex_;
  std::exception_ptr failed_;
};

}  // namespace

void set_workers(unsigned count) noexcept {
  wanted = count;
}

unsigned workers() noexcept {
  const auto count = wanted.load();
  return count == 0 ? cores() : count;
}

void for_each_index(std::size_t count, const std::function<void(std::size_t)>& work) {
  pass all(count, work);
  const auto helping =
      static_cast<std::ptrdiff_t>(std::min<std::size_t>(count, std::min(workers(), cores()))) - 1;
  if (helping <= 0) {
    all.run();
  } else {
    std::latch done(helping);
    for (std::ptrdiff_t i = 0; i < helping; ++i)
      boost::asio::post(helpers(), [&] {
        all.run();
        done.count_down();
      });
    all.run();
    done.wait();
  }
  all.rethrow();
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
