#include "tests/kernels/cuda/beds.hpp"

#include <cstdlib>

#include "kernels/cuda/emulated.hpp"

namespace lockstep::kernels::cuda {
namespace {

template <thread_order Order>
bed emulated_bed(std::string name) {
  bed result;
  result.name = std::move(name);
  result.kernels = &emulated_kernels();
  result.allocate = [](std::size_t size) { return std::malloc(size); };
  result.release = [](void* memory) { std::free(memory); };
  result.to_device = [](void* to, const void* from, std::size_t size) {
    std::memcpy(to, from, size);
  };
  result.to_host = result.to_device;
  result.prepare = [] { set_emulated_order(Order, 20261124); };
  return result;
}

std::vector<bed> find_beds() {
  const char* const wish = std::getenv("LOCKSTEP_BEDS");
  std::vector<bed> beds;
  if (wish == nullptr || std::string(wish) == "emulated") {
    beds.push_back(emulated_bed<thread_order::forward>("emulated, forward"));
    beds.push_back(emulated_bed<thread_order::backward>("emulated, backward"));
    beds.push_back(emulated_bed<thread_order::shuffled>("emulated, shuffled"));
  }
  if (wish == nullptr || std::string(wish) == "cuda")
    for (auto& one : cuda_beds()) beds.push_back(std::move(one));
  return beds;
}

std::size_t at_least_one(std::size_t count) {
  return count == 0 ? 1 : count;
}

}  // namespace

const std::vector<bed>& all_beds() {
  static const std::vector<bed> beds = find_beds();
  return beds;
}

encoded encode_on(const bed& on, const device_tensors& model, std::size_t capacity, bool full,
                  std::uint64_t ranges_at_once) {
  const device_layout& all = model.layout();
  const device_array<std::byte> frames(on, capacity, 4096);
  const device_array<std::uint64_t> frame_at(on, all.range_count);
  const device_array<encode_result> result(on, std::vector<encode_result>{{}});
  const std::uint64_t memory_bytes =
      encode_memory_bytes(std::min<std::uint64_t>(ranges_at_once, all.range_count));
  const device_array<std::byte> memory(on, memory_bytes, 4096);
  for (std::uint64_t at = 0; at < all.range_count; at += ranges_at_once) {
    device_layout part = all;
    part.ranges += at;
    part.range_count = std::min(ranges_at_once, all.range_count - at);
    const encode_output out{frames.data(), capacity, frame_at.data() + at, result.data()};
    (full ? on.kernels->encode_full : on.kernels->encode_raw)(part, out, memory.data(),
                                                              memory_bytes, nullptr);
    if (ranges_at_once > all.range_count) break;
  }
  if (!frames.guards_hold() || !memory.guards_hold() || !model.guards_hold())
    throw std::logic_error("an encoder wrote outside");
  return {frames.get(), frame_at.get(), result.one()};
}

device_stage::device_stage(const bed& on, const device_tensors& model, const buffer& frames,
                           const std::vector<std::uint64_t>& frame_at, std::uint64_t seed)
    : bed_(on),
      model_(model),
      frames_(on, frames),
      undo_(on, frames.size(), 4096),
      frame_at_(on, frame_at),
      checked_(on, frame_at.size()),
      claims_(on, at_least_one(model.layout().range_count)),
      key_(on, 1),
      base_(on, std::vector<device_digest>{{}}),
      result_(on, 1) {
  const device_kernels& run = *on.kernels;
  run.expand_key(seed, key_.data(), nullptr);
  run.digest(model.layout(), which_state::base, key_.data(), nullptr, base_.data(), nullptr);
  run.begin_stage(model.layout(), claims_.data(), result_.data(), nullptr);
  run.check(model.layout(), {frames_.data(), frames.size(), frame_at_.data(), frame_at.size()},
            key_.data(), checked_.data(), undo_.data(), claims_.data(), result_.data(), nullptr);
  if (!undo_.guards_hold() || !model.guards_hold())
    throw std::logic_error("checking wrote outside");
}

void device_stage::prove(const digest_sum& base, const digest_sum& target) {
  bed_.kernels->prove(base_.data(), base, target, result_.data(), nullptr);
}

void device_stage::apply() {
  bed_.kernels->apply(model_.layout(), frames_.data(), checked_.data(), checked_.size(),
                      result_.data(), nullptr);
}

void device_stage::roll_back() {
  bed_.kernels->apply(model_.layout(), undo_.data(), checked_.data(), checked_.size(),
                      result_.data(), nullptr);
}

}  // namespace lockstep::kernels::cuda
