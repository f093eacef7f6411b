#include "actors/thread_room.hpp"

#include <chrono>
#include <exception>
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

void require_threads(std::size_t count) {
  const auto before = threads_of_process();
  std::vector<std::thread> all;
  all.reserve(count);
  std::latch end(1);
  std::string why;
  try {
    while (all.size() < count) all.emplace_back([&end] { end.wait(); });
  } catch (const std::exception& e) {  // no memory for one is as good a reason
    why = e.what();
  }
  end.count_down();
  for (auto& t : all) t.join();
  // One that has been joined counts for a moment longer.
  for (int i = 0; i < 100 && threads_of_process() > before; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  if (all.size() < count)
    throw try_again_error(errc::no_memory, "this process may start " + std::to_string(all.size()) +
                                               " threads of the " + std::to_string(count) +
                                               " that it needs: " + why);
}

}  // namespace lockstep
