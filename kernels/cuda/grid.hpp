// Decides how one source of a kernel runs on a device, and thread by thread on a host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#if defined(__CUDACC__)
#define LOCKSTEP_DEVICE __device__
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#else
#define LOCKSTEP_DEVICE
#endif

namespace lockstep::kernels::cuda {

// A kernel is a plain struct: its members are the arguments, and
//   static constexpr unsigned threads;   of a block
//   struct shared;                       plain; garbage at first
//   template <class Block> LOCKSTEP_DEVICE void run(Block&, shared&, std::uint64_t index) const;
// `index` numbers the block. `run` is a sequence of regions: `block.each(body)` calls
// `body(thread)` for every thread, then waits for all of them. A thread keeps values from region to
// region in `Block::local<T>`. What stands between regions is the same for all threads: it may
// depend on arguments, on global memory that no block of the same launch writes, and on
// `block.read(x)` of shared memory, never on shared memory directly. Within a region no thread may
// depend on what another one does, but for atomics; the emulation runs them in different orders to
// find out.

/// In what order the emulation runs the threads of a region, and the blocks of a launch.
enum class thread_order : std::uint8_t { forward, backward, shuffled };

/// The order of one launch after the other; not for several threads at a time.
class emulated_order {
 public:
  explicit emulated_order(thread_order order, std::uint64_t seed = 1)
      : order_(order), next_(seed) {}

  /// A permutation of 0 to `count - 1`, for `shuffled` another each time.
  void arrange(std::vector<std::uint64_t>& numbers, std::uint64_t count) {
    numbers.resize(count);
    for (std::uint64_t i = 0; i < count; ++i)
      numbers[i] = order_ == thread_order::backward ? count - 1 - i : i;
    if (order_ != thread_order::shuffled) return;
    for (std::uint64_t i = count; i > 1; --i) std::swap(numbers[i - 1], numbers[next() % i]);
  }

 private:
  std::uint64_t next() {
    next_ = next_ * 6364136223846793005u + 1442695040888963407u;
    return next_ >> 33;
  }

  thread_order order_;
  std::uint64_t next_;
};

/// A block whose threads take turns.
template <unsigned Threads>
class emulated_block {
 public:
  explicit emulated_block(emulated_order& order) : order_(order) {}

  template <class T>
  class local {
   public:
    local() { std::memset(static_cast<void*>(values_), 0xa5, sizeof values_); }
    T& operator[](unsigned thread) { return values_[thread]; }

   private:
    T values_[Threads];
  };

  template <class Body>
  void each(Body body) {
    order_.arrange(turns_, Threads);
    for (const auto thread : turns_) body(static_cast<unsigned>(thread));
  }

  template <class T>
  T read(const T& shared) const {
    return shared;
  }

  /// Makes each value what those of the threads before it fold to, starting from `first`.
  /// @returns what all of them fold to.
  template <class T, class Op>
  T exclusive_scan(local<T>& values, T first, Op op) {
    T all = first;
    for (unsigned thread = 0; thread < Threads; ++thread) {
      const T own = values[thread];
      values[thread] = all;
      all = op(all, own);
    }
    return all;
  }

  /// What all values fold to. `op` must not mind the order.
  template <class T, class Op>
  T reduce(local<T>& values, Op op) {
    T all = values[0];
    for (unsigned thread = 1; thread < Threads; ++thread) all = op(all, values[thread]);
    return all;
  }

 private:
  emulated_order& order_;
  std::vector<std::uint64_t> turns_;
};

/// Runs `blocks` blocks of a kernel here.
template <class Kernel>
void emulate(const Kernel& kernel, std::uint64_t blocks, emulated_order& order) {
  std::vector<std::uint64_t> turns;
  order.arrange(turns, blocks);
  typename Kernel::shared shared;
  for (const auto index : turns) {
    std::memset(static_cast<void*>(&shared), 0xa5, sizeof shared);
    emulated_block<Kernel::threads> block(order);
    kernel.run(block, shared, index);
  }
}

#if defined(__CUDACC__)
/// A block of the device; each thread runs all of it.
template <unsigned Threads>
class device_block {
 public:
  template <class T>
  class local {
   public:
    __device__ T& operator[](unsigned) { return value_; }

   private:
    T value_;
  };

  template <class Body>
  __device__ void each(Body body) {
    body(threadIdx.x);
    __syncthreads();
  }

  template <class T>
  __device__ T read(const T& shared) const {
    const T value = *const_cast<const volatile T*>(&shared);
    __syncthreads();
    return value;
  }

  template <class T, class Op>
  __device__ T exclusive_scan(local<T>& values, T first, Op op) {
    using scan = cub::BlockScan<T, static_cast<int>(Threads)>;
    __shared__ typename scan::TempStorage storage;
    T all;
    scan(storage).ExclusiveScan(values[0], values[0], first, op, all);
    __syncthreads();
    return op(first, all);
  }

  template <class T, class Op>
  __device__ T reduce(local<T>& values, Op op) {
    using fold = cub::BlockReduce<T, static_cast<int>(Threads)>;
    __shared__ typename fold::TempStorage storage;
    __shared__ T all;
    const T result = fold(storage).Reduce(values[0], op);
    if (threadIdx.x == 0) all = result;
    __syncthreads();
    return read(all);
  }
};

template <class Kernel>
__global__ void __launch_bounds__(Kernel::threads) run_kernel(const Kernel kernel) {
  __shared__ typename Kernel::shared shared;
  device_block<Kernel::threads> block;
  kernel.run(block, shared, blockIdx.x);
}
#endif

/// Ways to fold.
struct plus {
  template <class T>
  LOCKSTEP_DEVICE T operator()(T a, T b) const {
    return static_cast<T>(a + b);
  }
};
struct larger {
  template <class T>
  LOCKSTEP_DEVICE T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};
struct smaller {
  template <class T>
  LOCKSTEP_DEVICE T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};

// ---- What all threads of all blocks may do to one place ----

LOCKSTEP_DEVICE inline void atomic_add(std::uint64_t* to, std::uint64_t x) {
#if defined(__CUDA_ARCH__)
  atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(x));
#else
  *to += x;
#endif
}
LOCKSTEP_DEVICE inline void atomic_add(std::uint32_t* to, std::uint32_t x) {
#if defined(__CUDA_ARCH__)
  atomicAdd(to, x);
#else
  *to += x;
#endif
}
LOCKSTEP_DEVICE inline void atomic_min(std::uint64_t* to, std::uint64_t x) {
#if defined(__CUDA_ARCH__)
  atomicMin(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(x));
#else
  if (x < *to) *to = x;
#endif
}
LOCKSTEP_DEVICE inline void atomic_min(std::uint32_t* to, std::uint32_t x) {
#if defined(__CUDA_ARCH__)
  atomicMin(to, x);
#else
  if (x < *to) *to = x;
#endif
}
LOCKSTEP_DEVICE inline void atomic_max(std::uint32_t* to, std::uint32_t x) {
#if defined(__CUDA_ARCH__)
  atomicMax(to, x);
#else
  if (x > *to) *to = x;
#endif
}
LOCKSTEP_DEVICE inline void atomic_or(std::uint64_t* to, std::uint64_t x) {
#if defined(__CUDA_ARCH__)
  atomicOr(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(x));
#else
  *to |= x;
#endif
}
/// @returns what was there.
LOCKSTEP_DEVICE inline std::uint32_t atomic_exchange(std::uint32_t* at, std::uint32_t x) {
#if defined(__CUDA_ARCH__)
  return atomicExch(at, x);
#else
  const std::uint32_t before = *at;
  *at = x;
  return before;
#endif
}

// ---- Bits and memory ----

LOCKSTEP_DEVICE inline unsigned ones_in(std::uint64_t mask) {
#if defined(__CUDA_ARCH__)
  return static_cast<unsigned>(__popcll(static_cast<long long>(mask)));
#else
  return static_cast<unsigned>(__builtin_popcountll(mask));
#endif
}
/// Zeros below the lowest one; `mask` is not 0.
LOCKSTEP_DEVICE inline unsigned zeros_below(std::uint64_t mask) {
#if defined(__CUDA_ARCH__)
  return static_cast<unsigned>(__ffsll(static_cast<long long>(mask)) - 1);
#else
  return static_cast<unsigned>(__builtin_ctzll(mask));
#endif
}
/// Zeros above the highest one; `mask` is not 0.
LOCKSTEP_DEVICE inline unsigned zeros_above(std::uint64_t mask) {
#if defined(__CUDA_ARCH__)
  return static_cast<unsigned>(__clzll(static_cast<long long>(mask)));
#else
  return static_cast<unsigned>(__builtin_clzll(mask));
#endif
}

/// Reads a T from any address; in one access where it is aligned.
template <class T>
LOCKSTEP_DEVICE T load_any(const std::byte* from) {
#if defined(__CUDA_ARCH__)
  if (reinterpret_cast<std::uintptr_t>(from) % alignof(T) == 0)
    return *reinterpret_cast<const T*>(from);
  T value;
  auto* const bytes = reinterpret_cast<std::byte*>(&value);
  for (std::size_t i = 0; i < sizeof(T); ++i) bytes[i] = from[i];
  return value;
#else
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
#endif
}
template <class T>
LOCKSTEP_DEVICE void store_any(std::byte* to, T value) {
#if defined(__CUDA_ARCH__)
  if (reinterpret_cast<std::uintptr_t>(to) % alignof(T) == 0) {
    *reinterpret_cast<T*>(to) = value;
    return;
  }
  const auto* const bytes = reinterpret_cast<const std::byte*>(&value);
  for (std::size_t i = 0; i < sizeof(T); ++i) to[i] = bytes[i];
#else
  std::memcpy(to, &value, sizeof value);
#endif
}

/// Two words that one access reads.
struct alignas(16) word_pair {
  std::uint64_t word[2];
};

/// The 16 bytes at any address.
LOCKSTEP_DEVICE inline word_pair load_pair(const std::byte* from) {
#if defined(__CUDA_ARCH__)
  if (reinterpret_cast<std::uintptr_t>(from) % alignof(word_pair) != 0)
    return {{load_any<std::uint64_t>(from), load_any<std::uint64_t>(from + 8)}};
#endif
  return load_any<word_pair>(from);
}

/// The little-endian word that `size` < 8 bytes begin, the rest zeros.
LOCKSTEP_DEVICE inline std::uint64_t load_first(const std::byte* from, std::uint64_t size) {
  std::uint64_t word = 0;
  for (std::uint64_t i = 0; i < size; ++i) word |= static_cast<std::uint64_t>(from[i]) << (8 * i);
  return word;
}

}  // namespace lockstep::kernels::cuda
