#include "transport/io_threads.hpp"

#include <algorithm>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <thread>
#include <utility>
#include <vector>

namespace lockstep {

namespace asio = boost::asio;

struct io_threads::impl {
  asio::io_context context;
  asio::executor_work_guard<asio::io_context::executor_type> work{context.get_executor()};
  std::vector<std::thread> threads;
};

io_threads::io_threads(unsigned count) : impl_(std::make_unique<impl>()) {
  try {
    for (unsigned i = 0; i < std::max(1u, count); ++i)
      impl_->threads.emplace_back([&context = impl_->context] { context.run(); });
  } catch (...) {
    stop();
    throw;
  }
}

io_threads::~io_threads() {
  stop();
}

void io_threads::stop() {
  impl_->context.stop();
  for (auto& thread : impl_->threads) thread.join();
  impl_->threads.clear();
}

void io_threads::post(std::function<void()> task) {
  asio::post(impl_->context, std::move(task));
}

asio::io_context& io_threads::context() noexcept {
  return impl_->context;
}

}  // namespace lockstep
