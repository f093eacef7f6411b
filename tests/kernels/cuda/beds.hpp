// Decides where the device kernels are tested: on the emulated grid in three orders, and on a CUDA
// device if there is one.
#pragma once

#include <catch2/catch.hpp>
#include <cstddef>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/device_kernels.hpp"
#include "tests/kernels/tensors.hpp"

namespace lockstep::kernels::cuda {

/// Kernels, and memory that they work on.
struct bed {
  std::string name;
  const device_kernels* kernels = nullptr;
  void* (*allocate)(std::size_t size) = nullptr;
  void (*release)(void* memory) = nullptr;
  void (*to_device)(void* to, const void* from, std::size_t size) = nullptr;
  /// Waits for what was launched before.
  void (*to_host)(void* to, const void* from, std::size_t size) = nullptr;
  /// Called before each test.
  void (*prepare)() = nullptr;
};

/// The CUDA device; nothing, with a word on the standard error stream, if there is none.
std::vector<bed> cuda_beds();

/// All, or those that the environment's LOCKSTEP_BEDS ("emulated" or "cuda") names.
const std::vector<bed>& all_beds();

/// Calls `run(bed)` for each of them; what fails names its bed.
template <class Run>
void on_each_bed(Run run) {
  for (const bed& on : all_beds()) {
    INFO(on.name);
    on.prepare();
    run(on);
  }
}

/// An array in the memory of a bed, between two zones of `guard` bytes that must stay what they
/// are.
template <class T>
class device_array {
 public:
  explicit device_array(const bed& on, std::size_t count, std::size_t guard = 0)
      : bed_(&on), count_(count), guard_(guard) {
    const std::vector<std::byte> fill(count * sizeof(T) + 2 * guard, std::byte{0xa5});
    memory_ = static_cast<std::byte*>(on.allocate(fill.size() == 0 ? 1 : fill.size()));
    if (!fill.empty()) on.to_device(memory_, fill.data(), fill.size());
  }
  device_array(const bed& on, const std::vector<T>& values, std::size_t guard = 0)
      : device_array(on, values.size(), guard) {
    set(values);
  }
  device_array(device_array&& other) noexcept
      : bed_(other.bed_),
        count_(other.count_),
        guard_(other.guard_),
        memory_(std::exchange(other.memory_, nullptr)) {}
  device_array& operator=(device_array&&) = delete;
  ~device_array() {
    if (memory_ != nullptr) bed_->release(memory_);
  }

  T* data() const { return reinterpret_cast<T*>(memory_ + guard_); }
  std::size_t size() const { return count_; }

  void set(const std::vector<T>& values) {
    if (!values.empty()) bed_->to_device(data(), values.data(), values.size() * sizeof(T));
  }
  std::vector<T> get() const {
    std::vector<T> values(count_);
    if (count_ != 0) bed_->to_host(values.data(), data(), count_ * sizeof(T));
    return values;
  }
  T one() const { return get().at(0); }

  bool guards_hold() const {
    std::vector<std::byte> all(count_ * sizeof(T) + 2 * guard_);
    if (!all.empty()) bed_->to_host(all.data(), memory_, all.size());
    for (std::size_t i = 0; i < guard_; ++i)
      if (all[i] != std::byte{0xa5} || all[all.size() - 1 - i] != std::byte{0xa5}) return false;
    return true;
  }

 private:
  const bed* bed_;
  std::size_t count_;
  std::size_t guard_;
  std::byte* memory_ = nullptr;
};

/// A tensor's two states on the host.
struct tensor_states {
  std::uint32_t unit = 2;
  buffer base;
  buffer target;
};

/// All that calls of device_kernels need of some tensors. Each tensor begins `shift` bytes behind a
/// boundary of 16 bytes, and lies between guards.
class device_tensors {
 public:
  device_tensors(const bed& on, const std::vector<tensor_states>& tensors, std::size_t shift = 0)
      : bed_(&on), shift_(shift) {
    std::vector<device_tensor> list;
    for (const auto& tensor : tensors) {
      base_.push_back(placed(tensor.base));
      target_.push_back(placed(tensor.target));
      device_tensor described;
      described.base = base_.back().data() + shift;
      described.target = target_.back().data() + shift;
      described.bytes = tensor.base.size();
      described.unit = tensor.unit;
      list.push_back(described);
    }
    const auto ranges = list_ranges(list);
    tensors_.emplace_back(on, list);
    ranges_.emplace_back(on, ranges);
    layout_ = {tensors_[0].data(), static_cast<std::uint32_t>(list.size()), ranges_[0].data(),
               ranges.size()};
  }

  const device_layout& layout() const { return layout_; }

  buffer base(std::size_t tensor) const { return cut(base_[tensor]); }
  void set_base(std::size_t tensor, const buffer& bytes) const {
    if (!bytes.empty()) bed_->to_device(base_[tensor].data() + shift_, bytes.data(), bytes.size());
  }
  bool guards_hold() const {
    for (const auto* all : {&base_, &target_})
      for (const auto& one : *all)
        if (!one.guards_hold()) return false;
    return true;
  }

 private:
  static constexpr std::size_t guard = 4096;

  device_array<std::byte> placed(const buffer& bytes) const {
    buffer shifted(shift_ + bytes.size(), std::byte{0xa5});
    std::copy(bytes.begin(), bytes.end(), shifted.begin() + static_cast<std::ptrdiff_t>(shift_));
    return device_array<std::byte>(*bed_, shifted, guard);
  }
  buffer cut(const device_array<std::byte>& from) const {
    const buffer all = from.get();
    return buffer(all.begin() + static_cast<std::ptrdiff_t>(shift_), all.end());
  }

  const bed* bed_;
  std::size_t shift_;
  std::vector<device_array<std::byte>> base_;
  std::vector<device_array<std::byte>> target_;
  std::vector<device_array<device_tensor>> tensors_;  // one or none: made late
  std::vector<device_array<device_range>> ranges_;
  device_layout layout_;
};

/// What one call of an encoder wrote.
struct encoded {
  buffer frames;
  std::vector<std::uint64_t> frame_at;
  encode_result result{};
};

/// Encodes all of `model`, `ranges_at_once` at a time, into `capacity` bytes.
encoded encode_on(const bed& on, const device_tensors& model, std::size_t capacity,
                  bool full = false, std::uint64_t ranges_at_once = ~0ull);

/// A stage on a bed: frames, what was found of them, and their undo record.
class device_stage {
 public:
  device_stage(const bed& on, const device_tensors& model, const buffer& frames,
               const std::vector<std::uint64_t>& frame_at, std::uint64_t seed);

  stage_result result() const { return result_.one(); }
  digest_sum base_digest() const { return base_.one().to_sum(); }
  void prove(const digest_sum& base, const digest_sum& target);
  void apply();
  void roll_back();
  /// Replaces the bytes of frames that were checked.
  void set_frames(const buffer& frames) { frames_.set(frames); }
  buffer undo() const { return undo_.get(); }

 private:
  const bed& bed_;
  const device_tensors& model_;
  device_array<std::byte> frames_;
  device_array<std::byte> undo_;
  device_array<std::uint64_t> frame_at_;
  device_array<checked_frame> checked_;
  device_array<std::uint32_t> claims_;
  device_array<device_key> key_;
  device_array<device_digest> base_;
  device_array<stage_result> result_;
};

}  // namespace lockstep::kernels::cuda
