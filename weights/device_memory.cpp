#include "weights/device_memory.hpp"

#include <limits>
#include <new>
#include <stdexcept>
#include <utility>

#include "kernels/frame_layout.hpp"
#include "weights/bucket_parts.hpp"

namespace lockstep {

namespace cuda = kernels::cuda;

namespace {

constexpr auto no_limit = std::numeric_limits<std::uint64_t>::max();

device_weights checked(const layout& shape, device_weights weights) {
  if (weights.tensors.size() != shape.count())
    throw error(errc::wrong_layout, "device memory for " + std::to_string(weights.tensors.size()) +
                                        " tensors, the layout has " +
                                        std::to_string(shape.count()));
  for (std::size_t i = 0; i < shape.count(); ++i)
    if (shape.bytes(i) != 0 && weights.tensors[i] == nullptr)
      throw error(errc::wrong_layout, "no device memory for tensor '" + shape[i].name + "'");
  return weights;
}

/// `work`, where a device that fails is a reason like others.
template <class Work>
weight_memory::failure on_device(device_queue& queue, Work work) {
  try {
    const device_queue::scope here(queue);
    return work();
  } catch (const device_error& e) {
    return bucket_failure{errc::apply_failed, e.what()};
  }
}

std::vector<digest> digests_in(const device_block<cuda::device_digest>& there) {
  std::vector<cuda::device_digest> sums(static_cast<std::size_t>(there.size()));
  there.get(sums);
  std::vector<digest> out;
  for (const auto& sum : sums) out.push_back(to_digest(sum.to_sum()));
  return out;
}

std::uint64_t part_of_frames(std::uint64_t frames, double share) {
  return static_cast<std::uint64_t>(static_cast<double>(frames) * share);
}

}  // namespace

device_memory::device_memory(const layout& shape, device_weights weights) try
    : weights_(checked(shape, std::move(weights))), queue_(weights_.device, weights_.patience) {
  const device_queue::scope here(queue_);
  // What is enqueued there may still write the weights: an engine's work, or what a receiver before
  // this one gave up waiting for. And a stream that is none of the device's is found here, not in
  // the pause of the first commit.
  queue_.wait_for(weights_.stream);
  for (std::size_t i = 0; i < shape.count(); ++i)
    queue_.device().require_here(weights_.tensors[i], shape.bytes(i));
  model_.emplace(queue_, shape, weights_.tensors);
} catch (const std::bad_alloc&) {
  throw error(errc::no_memory, "the device has no memory left");
} catch (const device_error& e) {
  throw error(errc::bad_input, e.what());
} catch (const std::invalid_argument& e) {
  throw error(errc::wrong_layout, e.what());
}

void device_memory::read(std::size_t index, std::span<std::byte> out) {
  const std::lock_guard lock(mutex_);
  const device_queue::scope here(queue_);
  queue_.to_host(out.data(), weights_.tensors[index], out.size());
}

// --- a delta

device_stage& device_memory::stage_from(device_stage::from what) {
  stage_.reset();
  return stage_.emplace(queue_, *model_, work_, what);
}

void device_memory::keep(std::uint32_t index, payload bucket) {
  const std::lock_guard lock(mutex_);
  if (kept_.size() <= index) kept_.resize(std::size_t{index} + 1);
  kept_[index] = std::move(bucket);
}

weight_memory::failure device_memory::stage(std::uint32_t index, payload bucket,
                                            std::uint64_t bytes_max) {
  const std::lock_guard lock(mutex_);
  return on_device(queue_, [&] {
    if (!stage_) stage_from(device_stage::from::base);
    return stage_->add(index, bucket, bytes_max);
  });
}

weight_memory::failure device_memory::verify(const digest& base, const digest& target) {
  const std::lock_guard lock(mutex_);
  return on_device(queue_, [&] {
    if (!stage_) stage_from(device_stage::from::base);  // no bucket at all
    return stage_->prove(base, target);
  });
}

weight_memory::failure device_memory::check() {
  const std::lock_guard lock(mutex_);
  return on_device(queue_, [&]() -> failure {
    auto kept = std::exchange(kept_, {});
    if (kept.empty() && stage_) return unless_sound();  // asked again
    auto& stage = stage_from(device_stage::from::any_mix);
    for (std::uint32_t i = 0; i < kept.size(); ++i)
      if (auto bad = stage.add(i, std::exchange(kept[i], {}), no_limit)) return bad;
    stage.accept();
    return std::nullopt;
  });
}

weight_memory::failure device_memory::unless_sound() const {
  if (stage_ && stage_->sound()) return std::nullopt;
  return bucket_failure{errc::apply_failed, "what is staged was not proven"};
}

weight_memory::failure device_memory::apply(std::vector<std::size_t>& touched) {
  const std::lock_guard lock(mutex_);
  return on_device(queue_, [&] { return write_staged(touched); });
}

weight_memory::failure device_memory::write_staged(std::vector<std::size_t>& touched) {
  if (auto bad = unless_sound()) return bad;
  try {
    stage_->write(weights_.stream, no_limit, touched);
    return std::nullopt;
  } catch (const device_error& e) {
    return bucket_failure{errc::apply_failed, e.what() + roll_back()};
  }
}

std::string device_memory::roll_back() {
  if (!stage_->keeps_base()) return {};
  try {
    stage_->roll_back(weights_.stream);
    return queue_.lost() ? "; the undo stands behind it" : "; rolled back";
  } catch (const device_error& e) {
    return std::string("; not rolled back: ") + e.what();
  }
}

weight_memory::failure device_memory::apply_share(double share, std::vector<std::size_t>& touched) {
  const std::lock_guard lock(mutex_);
  return on_device(queue_, [&]() -> failure {
    if (auto bad = unless_sound()) return bad;
    stage_->write(weights_.stream, part_of_frames(stage_->frames(), share), touched);
    return std::nullopt;
  });
}

void device_memory::forget() noexcept {
  const std::lock_guard lock(mutex_);
  std::vector<payload>().swap(kept_);
  if (!stage_) return;
  stage_.reset();
  // Others on the device have use for it, as soon as nothing of ours is in its way.
  try {
    const device_queue::scope here(queue_);
    queue_.wait();
    queue_.device().trim();
  } catch (const std::exception&) {
    // Of a lost device everything is kept; one that fails says so to the next call.
  }
}

std::uint64_t device_memory::staged_bytes() const noexcept {
  const std::lock_guard lock(mutex_);
  auto sum = stage_ ? stage_->bytes() : 0;
  for (const auto& bucket : kept_) sum += bucket.size();
  return sum;
}

// --- all weights

weight_memory::failure device_memory::write(const payload& bucket,
                                            std::vector<std::size_t>& touched) {
  return write_bucket(bucket, std::nullopt, touched);
}

weight_memory::failure device_memory::write_share(const payload& bucket, double share,
                                                  std::vector<std::size_t>& touched) {
  return write_bucket(bucket, share, touched);
}

weight_memory::failure device_memory::write_bucket(const payload& bucket,
                                                   std::optional<double> share,
                                                   std::vector<std::size_t>& touched) {
  const std::lock_guard lock(mutex_);
  return on_device(queue_, [&]() -> failure {
    device_stage stage(queue_, *model_, work_, device_stage::from::nothing);
    if (auto bad = stage.add(0, bucket, no_limit)) return bad;
    stage.accept();
    stage.write(weights_.stream, share ? part_of_frames(stage.frames(), *share) : no_limit,
                touched);
    return std::nullopt;
  });
}

payload device_memory::cut(std::uint64_t bucket_bytes_max, std::uint32_t count,
                           std::uint32_t index) {
  const std::lock_guard lock(mutex_);
  const device_queue::scope here(queue_);
  if (!cut_ || cut_->bucket_bytes_max() != bucket_bytes_max)
    cut_.emplace(model_->lengths, bucket_bytes_max);
  return cut_->count() == count && index < count ? make_bucket((*cut_)[index]) : payload();
}

payload device_memory::make_bucket(const full_cut::place& from) {
  // A bucket's ranges follow each other in the layout, as those of all tensors do.
  auto part = model_->layout;
  const auto first =
      model_->tensors[from.tensor].first_range + from.offset / kernels::frame_span_bytes_max;
  part.ranges += first;
  part.range_count = 0;
  auto tensor = from.tensor;
  auto offset = from.offset;
  for (std::uint64_t bytes = 0; bytes < from.bytes;) {
    const auto size = model_->tensors[tensor].bytes;
    if (offset >= size) {
      ++tensor;
      offset = 0;
      continue;
    }
    bytes += kernels::frame_header_bytes + kernels::range_bytes_at(size, offset);
    offset += kernels::frame_span_bytes_max;
    ++part.range_count;
  }
  work_.need(queue_, cuda::encode_memory_bytes(part.range_count));
  const device_block<std::byte> frames(queue_, from.bytes);
  const device_block<std::uint64_t> at(queue_, part.range_count);
  device_block<cuda::encode_result> result(queue_, 1);
  result.set_one({});
  queue_.run().encode_full(part, {frames.data(), frames.size(), at.data(), result.data()},
                           work_.data(), work_.size(), queue_.on());
  const auto made = result.one();
  if (made.missing != 0 || made.bytes != from.bytes)
    throw device_error("a bucket of all weights was made otherwise than it was cut");
  std::vector<std::byte> out(static_cast<std::size_t>(from.bytes));
  frames.get(out);
  return payload(std::move(out));
}

digest device_memory::state() {
  return states_under({public_digest_seed}).front();
}

std::pair<digest, digest> device_memory::states(std::uint64_t challenge) {
  const auto both = states_under({public_digest_seed, challenge});
  return {both[0], both[1]};
}

std::vector<digest> device_memory::states_under(const std::vector<std::uint64_t>& seeds) {
  const std::lock_guard lock(mutex_);
  const device_queue::scope here(queue_);
  std::vector<cuda::device_digest> sums(seeds.size());
  const device_block<cuda::device_digest> there(queue_, std::span(std::as_const(sums)));
  const device_block<cuda::device_key> keys(queue_, seeds.size());
  for (std::size_t i = 0; i < seeds.size(); ++i) {
    queue_.run().expand_key(seeds[i], keys.data() + i, queue_.on());
    queue_.run().digest(model_->layout, cuda::which_state::base, keys.data() + i, nullptr,
                        there.data() + i, queue_.on());
  }
  return digests_in(there);
}

std::vector<digest> device_memory::states_of_each(std::uint64_t seed) {
  const std::lock_guard lock(mutex_);
  const device_queue::scope here(queue_);
  const auto& tensors = model_->tensors;
  std::vector<cuda::device_digest> sums(tensors.size());
  const device_block<cuda::device_digest> there(queue_, std::span(std::as_const(sums)));
  const device_block<cuda::device_key> key(queue_, 1);
  queue_.run().expand_key(seed, key.data(), queue_.on());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto end =
        i + 1 < tensors.size() ? tensors[i + 1].first_range : model_->layout.range_count;
    auto part = model_->layout;
    part.ranges += tensors[i].first_range;
    part.range_count = end - tensors[i].first_range;
    queue_.run().digest(part, cuda::which_state::base, key.data(), nullptr, there.data() + i,
                        queue_.on());
  }
  return digests_in(there);
}

}  // namespace lockstep
