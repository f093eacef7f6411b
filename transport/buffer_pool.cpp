#include "transport/buffer_pool.hpp"

#include <utility>

namespace lockstep {

namespace {

struct lent {
  std::weak_ptr<buffer_pool> pool;
  buffer_pool::buffer bytes;

  lent(std::weak_ptr<buffer_pool> to, buffer_pool::buffer from)
      : pool(std::move(to)), bytes(std::move(from)) {}
  lent(const lent&) = delete;
  lent& operator=(const lent&) = delete;
  ~lent() {
    if (const auto home = pool.lock()) home->give(std::move(bytes));
  }
};

}  // namespace

buffer_pool::buffer buffer_pool::take() {
  const std::lock_guard lock(mutex_);
  if (free_.empty()) return {};
  auto bytes = std::move(free_.back());
  free_.pop_back();
  bytes_ -= bytes.capacity();
  return bytes;
}

payload buffer_pool::lend(buffer bytes) {
  const auto holder = std::make_shared<lent>(weak_from_this(), std::move(bytes));
  return payload(std::shared_ptr<const buffer>(holder, &holder->bytes));
}

void buffer_pool::give(buffer bytes) noexcept try {
  const std::lock_guard lock(mutex_);
  if (bytes.capacity() == 0 || bytes.capacity() > bytes_max_ - bytes_) return;
  free_.reserve(free_.size() + 1);
  bytes_ += bytes.capacity();
  free_.push_back(std::move(bytes));
} catch (const std::bad_alloc&) {
  // Then the buffer is freed.
}

}  // namespace lockstep
