#include "actors/thread_room.hpp"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <filesystem>
#include <latch>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "messages/transient.hpp"

namespace lockstep {

namespace {

/// As the system counts them; 0 where it does not say.
std::size_t threads_of_process() {
  std::error_code unknown;
  std::size_t count = 0;
  for (std::filesystem::directory_iterator at("/proc/self/task", unknown), end;
       !unknown && at != end; at.increment(unknown))
    ++count;
  return count;
}

}  // namespace

// Not std::thread: as many stacks of the usual size are memory that a process may not have.
void require_threads(std::size_t count) {
  const auto before = threads_of_process();
  std::vector<pthread_t> all;
  all.reserve(count);
  std::latch end(1);
  constexpr std::size_t least_bytes = 64 << 10;
  ::pthread_attr_t small;
  ::pthread_attr_init(&small);
  ::pthread_attr_setstacksize(&small,
                              std::max(static_cast<std::size_t>(PTHREAD_STACK_MIN), least_bytes));
  int why = 0;
  while (all.size() < count && why == 0) {
    pthread_t one;
    why = ::pthread_create(
        &one, &small,
        [](void* until) -> void* {
          static_cast<std::latch*>(until)->wait();
          return nullptr;
        },
        &end);
    if (why == 0) all.push_back(one);
  }
  ::pthread_attr_destroy(&small);
  end.count_down();
  for (const auto one : all) ::pthread_join(one, nullptr);
  // One that has been joined counts for a moment longer.
  for (int i = 0; i < 100 && threads_of_process() > before; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  if (why != 0)
    throw try_again_error(errc::no_memory,
                          "this process may start " + std::to_string(all.size()) +
                              " threads of the " + std::to_string(count) +
                              " that it needs: " + std::system_category().message(why));
}

}  // namespace lockstep
