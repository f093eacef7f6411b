#include "kernels/dispatch.hpp"

#include <array>
#include <atomic>

#include "kernels/inner_loops.hpp"

namespace lockstep::kernels {
namespace {

struct catalogue {
  std::array<const inner_loops*, 6> all{};
  std::size_t count = 0;

  catalogue() noexcept {
    all[0] = &portable_loops();
    count = 1 + vector_loops(all.data() + 1);
  }
};

const catalogue& known() noexcept {
  static const catalogue instance;
  return instance;
}

std::atomic<const inner_loops*>& active() noexcept {
  static std::atomic<const inner_loops*> loops{known().all[known().count - 1]};
  return loops;
}

}  // namespace

const char* to_string(implementation which) noexcept {
  switch (which) {
    case implementation::portable:
      return "portable";
    case implementation::sse4:
      return "sse4";
    case implementation::avx2:
      return "avx2";
    case implementation::avx512:
      return "avx512";
    case implementation::avx512_dl:
      return "avx512_dl";
    case implementation::neon:
      return "neon";
  }
  return "unknown";
}

std::vector<implementation> available_implementations() {
  std::vector<implementation> result;
  for (std::size_t i = 0; i < known().count; ++i) result.push_back(known().all[i]->which);
  return result;
}

implementation active_implementation() noexcept {
  return active_loops().which;
}

bool set_implementation(implementation which) noexcept {
  for (std::size_t i = 0; i < known().count; ++i) {
    if (known().all[i]->which != which) continue;
    active().store(known().all[i], std::memory_order_relaxed);
    return true;
  }
  return false;
}

const inner_loops& active_loops() noexcept {
  return *active().load(std::memory_order_relaxed);
}

}  // namespace lockstep::kernels
