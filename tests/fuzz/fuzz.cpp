#include "fuzz/fuzz.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

// Of the sanitizers' allocators. Weak: a build without a sanitizer has none of them.
extern "C" {
[[gnu::weak]] int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void*,
                                                                              std::size_t),
                                                            void (*on_free)(const volatile void*));
[[gnu::weak]] std::size_t __sanitizer_get_allocated_size(const volatile void* memory);
}

namespace lockstep::fuzz {

namespace {

constexpr std::size_t message_bytes_max = 4096;

struct {
  bool counting = false;
  std::ptrdiff_t now = 0;
  std::ptrdiff_t peak = 0;
} thread_local held;

void on_malloc(const volatile void*, std::size_t size) {
  if (!held.counting) return;
  held.now += static_cast<std::ptrdiff_t>(size);
  held.peak = std::max(held.peak, held.now);
}

void on_free(const volatile void* memory) {
  if (!held.counting || !memory) return;
  held.now -= static_cast<std::ptrdiff_t>(__sanitizer_get_allocated_size(memory));
}

}  // namespace

void demand(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "demanded, but does not hold: %s\n", what);
  std::abort();
}

void demand_message(std::string_view message) {
  demand(!message.empty() && message.size() <= message_bytes_max, "a message of bounded length");
  demand(std::ranges::none_of(message, [](char c) { return static_cast<unsigned char>(c) < 0x20; }),
         "a message in one line, without control characters");
}

held_bytes::held_bytes(std::size_t bound) : bound_(bound) {
  static const bool installed = __sanitizer_install_malloc_and_free_hooks &&
                                __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free) != 0;
  held = {installed, 0, 0};
}

held_bytes::~held_bytes() {
  held.counting = false;
  if (held.peak <= static_cast<std::ptrdiff_t>(bound_)) return;
  std::fprintf(stderr, "held %td bytes, %zu are allowed\n", held.peak, bound_);
  demand(false, "memory in proportion to the input");
}

}  // namespace lockstep::fuzz
