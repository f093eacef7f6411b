#include "messages/shards.hpp"

#include <array>

namespace lockstep {

std::string_view to_string(shard_task what) noexcept {
  constexpr std::array<std::string_view, 10> names{"seed", "encode",  "prove", "plan",  "advance",
                                                   "drop", "digests", "end",   "carve", "stage"};
  const auto index = static_cast<std::size_t>(what);
  return index < names.size() ? names[index] : "unknown";
}

}  // namespace lockstep
