#include "actors/snapshot_store.hpp"

namespace lockstep {

snapshot_store::snapshot_store(layout shape, const tensor_reader& source, std::uint64_t label,
                               std::uint32_t history_percent)
    : bytes_(std::move(shape)),
      history_(bytes_.shape().total_bytes() / 100 * history_percent),
      label_(label) {
  bytes_.copy_from(bytes_.shape(), source);
  for (std::size_t i = 0; i < bytes_.shape().count(); ++i) {
    const auto bytes = bytes_.tensor(i);
    spans_.push_back({{bytes.data(), bytes.size()}, unit_bytes(bytes_.shape()[i].type)});
  }
}

std::uint32_t growing_source::add(const payload& bucket) {
  const std::lock_guard lock(mutex_);
  buckets_.push_back(bucket);
  return static_cast<std::uint32_t>(buckets_.size());
}

payload growing_source::bucket(std::uint32_t index) {
  const std::lock_guard lock(mutex_);
  return index < buckets_.size() ? buckets_[index] : payload();
}

full_source::full_source(std::shared_ptr<const snapshot_store> store, const bucket_form& form,
                         std::size_t kept_max, shard_mask taken)
    : store_(std::move(store)),
      taken_(std::move(taken)),
      generation_(store_->generation()),
      plan_(store_->read([&](const tensor_views& tensors) {
        return full_plan(shard_layout(store_->shape(), taken_), part_of(tensors, taken_), form);
      })),
      kept_max_(kept_max) {}

void full_source::expect(std::size_t flushers) {
  const std::lock_guard lock(mutex_);
  flushers_ += flushers;
}

payload full_source::bucket(std::uint32_t index) {
  const std::lock_guard lock(mutex_);
  payload made;
  if (const auto it = kept_.find(index); it != kept_.end()) {
    made = it->second.bytes;
    if (--it->second.awaited == 0) kept_.erase(it);
    return made;
  }
  store_->read_if(generation_, [&](const tensor_views& tensors) {
    made = plan_.make(index, part_of(tensors, taken_));
  });
  if (made.size() == 0 || flushers_ < 2) return made;
  // Flushers move forward at about the same pace; whoever is far behind makes its bucket anew.
  if (kept_.size() == kept_max_) kept_.erase(kept_.begin());
  kept_.emplace(index, kept{made, flushers_ - 1});
  return made;
}

}  // namespace lockstep
