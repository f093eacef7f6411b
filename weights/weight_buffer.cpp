#include "weights/weight_buffer.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include "messages/errors.hpp"

namespace lockstep {

namespace {

/// Every pass over weights goes through all of them, and looks up a page each 4 KiB if they lie in
/// small ones: a tenth of its time. Where the system has none to give, nothing is lost.
void ask_for_huge_pages(void* memory, std::uint64_t bytes) {
  constexpr std::size_t page = 4096, huge_page = 2 << 20;
  if (bytes < 2 * huge_page) return;
  auto* begin = static_cast<std::byte*>(memory);
  auto space = static_cast<std::size_t>(bytes);
  void* aligned = begin;
  if (std::align(page, page, aligned, space) == nullptr) return;
  ::madvise(aligned, space / page * page, MADV_HUGEPAGE);
}

std::byte* allocate(std::uint64_t bytes) {
  void* memory = ::operator new (bytes, std::align_val_t{weight_alignment}, std::nothrow);
  if (!memory)
    throw error(errc::no_memory, "no memory for " + std::to_string(bytes) + " bytes of weights");
  ask_for_huge_pages(memory, bytes);
  return static_cast<std::byte*>(memory);
}

}  // namespace

void weight_buffer::release::operator()(std::byte* memory) const noexcept {
  ::operator delete (memory, std::align_val_t{weight_alignment});
}

weight_buffer::weight_buffer(layout shape) : shape_(std::move(shape)) {
  std::uint64_t end = 0;
  offsets_.reserve(shape_.count());
  for (std::size_t i = 0; i < shape_.count(); ++i) {
    offsets_.push_back(end);
    std::uint64_t next = 0;
    if (__builtin_add_overflow(end, shape_.bytes(i), &next) ||
        __builtin_add_overflow(next, weight_alignment - 1, &next))
      throw error(errc::no_memory, "no memory for more than 2^64 bytes of weights");
    end = next / weight_alignment * weight_alignment;
  }
  memory_.reset(allocate(end));
  capacity_ = end;
  std::memset(memory_.get(), 0, capacity_);
}

weight_buffer weight_buffer::clone() const {
  weight_buffer copy;
  copy.shape_ = shape_;
  copy.offsets_ = offsets_;
  if (!memory_) return copy;
  copy.memory_.reset(allocate(capacity_));
  copy.capacity_ = capacity_;
  std::memcpy(copy.memory_.get(), memory_.get(), capacity_);
  return copy;
}

void weight_buffer::swap(weight_buffer& other) noexcept {
  std::swap(shape_, other.shape_);
  offsets_.swap(other.offsets_);
  std::swap(capacity_, other.capacity_);
  memory_.swap(other.memory_);
}

void weight_buffer::copy_from(const layout& source_shape, const tensor_reader& source) {
  if (!(source_shape == shape_))
    throw error(errc::wrong_layout, "weights of another layout cannot be copied");
  for (std::size_t i = 0; i < shape_.count(); ++i)
    if (source(i).size() != shape_.bytes(i))
      throw error(errc::wrong_layout,
                  "tensor '" + shape_[i].name + "' has another length than its layout says");
  for (std::size_t i = 0; i < shape_.count(); ++i) {
    const auto from = source(i);
    std::copy(from.begin(), from.end(), tensor(i).begin());
  }
}

}  // namespace lockstep
