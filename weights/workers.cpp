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
  const auto helping =
      static_cast<std::ptrdiff_t>(std::min<std::size_t>(most, std::min(workers(), cores()))) - 1;
  std::latch done(std::max<std::ptrdiff_t>(helping, 0));
  for (std::ptrdiff_t i = 0; i < helping; ++i)
    boost::asio::post(helpers(), [&] {
      guarded();
      done.count_down();
    });
  guarded();
  done.wait();
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
