#include "tests/support/emulated_device.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <type_traits>

#include "kernels/cuda/emulated.hpp"

namespace lockstep::kernels::cuda {
namespace {

/// The device that is current; a thread has one or none.
thread_local emulated_device* current = nullptr;

/// Whether it is this call that is to fail.
bool strikes(std::atomic<std::uint64_t>& left) {
  std::uint64_t now = left;
  while (now != 0)
    if (left.compare_exchange_weak(now, now - 1)) return now == 1;
  return false;
}

/// What no test may go on after.
[[noreturn]] void broken(const char* what) noexcept {
  std::fprintf(stderr, "emulated device: %s\n", what);
  std::abort();
}

/// Another one each time, of all devices: no handle of one is taken for one of another.
template <class Handle>
Handle new_handle() {
  static std::atomic<std::uintptr_t> made = 0;
  return reinterpret_cast<Handle>(++made * 64);
}

// What a call reads of the device, and what it writes, as `use(address, writes)` is told.
template <class Use, class T>
void uses_of(const Use& use, T* memory) {
  use(memory, !std::is_const_v<T>);
}
template <class Use>
void uses_of(const Use& use, const frame_list& list) {
  use(list.frames, false);
  use(list.frame_at, false);
}
template <class Use>
void uses_of(const Use& use, const encode_output& out) {
  use(out.frames, true);
  use(out.frame_at, true);
  use(out.result, true);
}
template <class Use>
void uses_of(const Use& use, const decode_output& out) {
  use(out.frames, true);
  use(out.frame_at, true);
  use(out.pass_at, true);
  use(out.result, true);
  use(out.claims, true);
  use(out.base, true);
}
template <class Use>
void uses_of(const Use&, stream) {}
template <class Use>
void uses_of(const Use&, std::uint64_t) {}
template <class Use>
void uses_of(const Use&, which_state) {}
template <class Use>
void uses_of(const Use&, const digest_sum&) {}
template <class Use>
void uses_of(const Use& use, const device_layout& layout) {
  use(layout.tensors, false);
  use(layout.ranges, false);
  for (std::uint32_t i = 0; i < layout.tensor_count; ++i) {
    use(layout.tensors[i].base, false);
    use(layout.tensors[i].target, false);
  }
}

}  // namespace

template <class... Arguments, void (*device_kernels::*Member)(Arguments...)>
struct emulated_device::through<Member> {
  template <auto Other>
  static constexpr bool is = std::is_same_v<through<Member>, through<Other>>;

  static void call(Arguments... arguments) {
    if (current == nullptr) throw device_error("no device is current");
    if (is<&device_kernels::apply> && strikes(current->applies_left_))
      throw device_error("nothing was launched, on purpose");
    note(*current, std::tie(arguments...));
    (emulated_kernels().*Member)(arguments...);
  }

  template <class All>
  static void note(emulated_device& device, const All& all) {
    constexpr bool writes = is<&device_kernels::apply> || is<&device_kernels::copy>;
    const stream on = std::get<sizeof...(Arguments) - 1>(all);
    const std::lock_guard<std::mutex> lock(device.mutex_);
    line& at = device.line_of(on);
    ++(writes ? at.counts.writes : at.counts.others);
    const place by{on, ++at.last};
    const auto use = [&](const void* memory, bool is_written) {
      device.use(memory, by, is_written);
    };
    // begin_stage asks a layout for its length alone.
    const auto use_of = [&](const auto& each) {
      if constexpr (!is<&device_kernels::begin_stage> ||
                    !std::is_same_v<decltype(each), const device_layout&>)
        uses_of(use, each);
    };
    std::apply([&](const auto&... each) { (use_of(each), ...); }, all);
    if constexpr (writes) {
      const device_layout& layout = std::get<0>(all);
      for (std::uint32_t i = 0; i < layout.tensor_count; ++i) use(layout.tensors[i].base, true);
    }
  }
};

emulated_device::emulated_device() : kernels_(emulated_kernels()) {
  kernels_.expand_key = through<&device_kernels::expand_key>::call;
  kernels_.digest = through<&device_kernels::digest>::call;
  kernels_.encode_raw = through<&device_kernels::encode_raw>::call;
  kernels_.encode_full = through<&device_kernels::encode_full>::call;
  kernels_.encode_coded = through<&device_kernels::encode_coded>::call;
  kernels_.begin_stage = through<&device_kernels::begin_stage>::call;
  kernels_.decode = through<&device_kernels::decode>::call;
  kernels_.check = through<&device_kernels::check>::call;
  kernels_.prove = through<&device_kernels::prove>::call;
  kernels_.apply = through<&device_kernels::apply>::call;
  kernels_.copy = through<&device_kernels::copy>::call;
}

emulated_device::~emulated_device() {
  for (const auto& [memory, what] : blocks_)
    if (!what.lent) std::free(const_cast<std::byte*>(memory));
}

void emulated_device::lend(void* memory, std::uint64_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  blocks_[static_cast<const std::byte*>(memory)] = {bytes, true, {}, {}};
}

emulated_device::work emulated_device::enqueued_on(stream on) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return line_of(on).counts;
}

int emulated_device::enter() {
  if (current != nullptr) throw device_error("another device is current");
  current = this;
  return 0;
}

void emulated_device::leave(int) noexcept {
  current = nullptr;
}

void emulated_device::require_entered() const {
  if (current != this) throw device_error("the device is not current");
}

emulated_device::line& emulated_device::line_of(stream on) {
  if (on == nullptr) return lines_[on];  // the default one is always there
  const auto found = lines_.find(on);
  if (found == lines_.end()) throw device_error("the stream is not that of the emulated device");
  return found->second;
}

emulated_device::block* emulated_device::block_of(const void* memory) {
  const auto* const at = static_cast<const std::byte*>(memory);
  auto found = blocks_.upper_bound(at);
  if (found == blocks_.begin()) return nullptr;
  --found;
  return static_cast<std::uint64_t>(at - found->first) < found->second.bytes ? &found->second
                                                                             : nullptr;
}

bool emulated_device::is_done(const place& of) const {
  const auto found = lines_.find(of.on);
  return found == lines_.end() || found->second.done >= of.behind;
}

void emulated_device::use(const void* memory, const place& by, bool writes) {
  block* const used = block_of(memory);
  if (used == nullptr) return;  // nothing: no address, or one behind the last of an empty part
  if (used->written.on != by.on && !is_done(used->written))
    broken("memory is used that another stream may not have written yet");
  if (writes) {
    for (const auto& [on, number] : used->uses)
      if (on != by.on && !is_done({on, number}))
        broken("memory is written that another stream may still use");
    used->written = by;
  }
  used->uses[by.on] = by.behind;
}

void* emulated_device::allocate(std::uint64_t bytes, stream on) {
  require_entered();
  // More than a device has. What the host cannot give either is an error to some sanitizers.
  constexpr std::uint64_t memory_max = std::uint64_t{64} << 30;
  if (bytes > memory_max || strikes(allocations_left_)) throw std::bad_alloc();
  void* const memory = std::malloc(static_cast<std::size_t>(bytes));
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory, 0xa5, static_cast<std::size_t>(bytes));
  const std::lock_guard<std::mutex> lock(mutex_);
  try {
    line_of(on);
    blocks_[static_cast<const std::byte*>(memory)] = {bytes, false, {}, {}};
  } catch (...) {
    std::free(memory);
    throw;
  }
  held_ += bytes;
  if (held_ > held_max_) held_max_ = held_.load();
  return memory;
}

void emulated_device::release(void* memory, stream on) noexcept {
  if (memory == nullptr) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = blocks_.find(static_cast<const std::byte*>(memory));
  if (found == blocks_.end() || found->second.lent)
    broken("memory is freed that was never allocated, or is freed twice");
  for (const auto& [user, number] : found->second.uses)
    if (user != on && !is_done({user, number}))
      broken("memory is freed that another stream may still use");
  held_ -= found->second.bytes;
  kept_ += found->second.bytes;
  const auto last = found->second.uses.find(on);
  freed_.push_back(
      {{on, last == found->second.uses.end() ? 0 : last->second}, found->second.bytes});
  blocks_.erase(found);
  std::free(memory);
}

void emulated_device::trim() noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto end = std::remove_if(freed_.begin(), freed_.end(), [&](const auto& freed) {
    if (!is_done(freed.first)) return false;
    kept_ -= freed.second;
    return true;
  });
  freed_.erase(end, freed_.end());
}

void emulated_device::require_here(const void* memory, std::uint64_t bytes) {
  require_entered();
  const auto* const first = static_cast<const std::byte*>(memory);
  const std::lock_guard<std::mutex> lock(mutex_);
  auto found = blocks_.upper_bound(first);
  if (found != blocks_.begin()) {
    --found;
    const auto offset = static_cast<std::uint64_t>(first - found->first);
    if (offset <= found->second.bytes && bytes <= found->second.bytes - offset) return;
  }
  if (bytes != 0) throw device_error("memory is not that of the emulated device");
}

void emulated_device::copy(void* to, const void* from, std::uint64_t bytes, const void* here,
                           stream on) {
  require_here(here, bytes);
  if (strikes(copies_left_)) throw device_error("nothing was copied, on purpose");
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    line& at = line_of(on);
    ++at.counts.others;
    use(here, {on, ++at.last}, here == to);
  }
  if (bytes != 0) std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

std::byte* emulated_device::take_room() {
  require_entered();
  std::unique_ptr<std::byte[]> made(new std::byte[room_bytes()]);
  const std::lock_guard<std::mutex> lock(mutex_);
  std::byte* const room = made.get();
  rooms_[room] = std::move(made);
  return room;
}

void emulated_device::give_room(std::byte* room) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (room != nullptr && rooms_.erase(room) == 0) broken("a room is given back that was not taken");
}

void emulated_device::require_room(const std::byte* room, std::uint64_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  auto found = rooms_.upper_bound(room);
  if (found == rooms_.begin()) throw device_error("memory that copies cannot be made from and to");
  --found;
  const auto offset = static_cast<std::uint64_t>(room - found->first);
  if (offset > room_bytes() || bytes > room_bytes() - offset)
    throw device_error("memory that copies cannot be made from and to");
}

void emulated_device::to_device(void* to, const std::byte* room, std::uint64_t bytes, stream on) {
  require_room(room, bytes);
  copy(to, room, bytes, to, on);
}

void emulated_device::to_host(std::byte* room, const void* from, std::uint64_t bytes, stream on) {
  require_room(room, bytes);
  copy(room, from, bytes, from, on);
}

stream emulated_device::make_stream() {
  require_entered();
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto made = new_handle<stream>();
  lines_[made];
  return made;
}

void emulated_device::end_stream(stream which) noexcept {
  if (which == nullptr) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (lines_.erase(which) == 0) broken("a stream is ended that is not there");
}

stream_mark emulated_device::make_mark() {
  require_entered();
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto made = new_handle<stream_mark>();
  marks_[made];
  return made;
}

void emulated_device::end_mark(stream_mark which) noexcept {
  if (which == nullptr) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (marks_.erase(which) == 0) broken("a mark is ended that is not there");
}

void emulated_device::set_mark(stream_mark which, stream on) {
  require_entered();
  if (on != nullptr && on == denied_) throw device_error("no mark was set, on purpose");
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = marks_.find(which);
  if (found == marks_.end()) throw device_error("the mark is not that of the emulated device");
  found->second = {on, line_of(on).last};
}

bool emulated_device::passed(stream_mark which) {
  require_entered();
  if (hangs_) return false;
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = marks_.find(which);
  if (found == marks_.end()) throw device_error("the mark is not that of the emulated device");
  const auto [on, behind] = found->second;
  if (const auto at = lines_.find(on); at != lines_.end())
    at->second.done = std::max(at->second.done, behind);
  return true;
}

}  // namespace lockstep::kernels::cuda
