#include "tests/support/allocations.hpp"

#include <atomic>
#include <cstdlib>
#include <new>

namespace {

thread_local std::size_t allocated = 0;
std::atomic<std::size_t> allocated_by_all = 0;

std::atomic<bool> armed = false;
std::atomic<std::size_t> made = 0;  // since it was armed
std::size_t fails_at = 0;
bool fails_from_there = false;

bool fails() noexcept {
  if (!armed) return false;
  const auto number = ++made;
  return number == fails_at || (fails_from_there && number > fails_at);
}

void* allocate(std::size_t size, std::size_t alignment = 0) noexcept {
  allocated += size;
  allocated_by_all += size;
  if (fails()) return nullptr;
  if (size == 0) size = 1;
  if (alignment == 0) return std::malloc(size);
  return std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

void* or_throw(void* memory) {
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

// The sanitizers' own operators look for mismatched releases; these keep to malloc and free, which
// they watch as well. The array forms call these.
void* operator new(std::size_t size) {
  return or_throw(allocate(size));
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return allocate(size);
}
void* operator new(std::size_t size, std::align_val_t alignment) {
  return or_throw(allocate(size, static_cast<std::size_t>(alignment)));
}
void* operator new(std::size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return allocate(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, const std::nothrow_t&) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::align_val_t, const std::nothrow_t&) noexcept {
  std::free(memory);
}

namespace lockstep {

allocation_counter::allocation_counter() noexcept
    : before_(allocated), before_of_all_(allocated_by_all) {}

std::size_t allocation_counter::bytes() const noexcept {
  return allocated - before_;
}

std::size_t allocation_counter::bytes_of_all() const noexcept {
  return allocated_by_all - before_of_all_;
}

failing_allocation::failing_allocation(std::size_t number, bool stays) noexcept {
  fails_at = number;
  fails_from_there = stays;
  made = 0;
  armed = true;
}

failing_allocation::~failing_allocation() {
  armed = false;
}

bool failing_allocation::struck() const noexcept {
  return made >= fails_at;
}

}  // namespace lockstep
