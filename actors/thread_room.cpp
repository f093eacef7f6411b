#include "actors/thread_room.hpp"

#include <latch>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "messages/transient.hpp"

namespace lockstep {

void require_threads(std::size_t count) {
  std::vector<std::thread> all;
  all.reserve(count);
  std::latch end(1);
  std::string why;
  try {
    while (all.size() < count) all.emplace_back([&end] { end.wait(); });
  } catch (const std::system_error& e) {
    why = e.what();
  }
  end.count_down();
  for (auto& t : all) t.join();
  if (all.size() < count)
    throw try_again_error(errc::no_memory, "this process may start " + std::to_string(all.size()) +
                                               " threads of the " + std::to_string(count) +
                                               " that it needs: " + why);
}

}  // namespace lockstep
