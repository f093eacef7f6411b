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

catch_up_plan plan_catch_up(const snapshot_store& store, const std::vector<digest>& held,
                            std::uint64_t bucket_bytes_max, std::uint64_t bytes_max) {
  return store.read([&](const tensor_views& tensors) {
    const auto& history = store.history();
    std::map<std::size_t, digest> by_age;
    for (const auto& state : held)
      if (const auto age = history.age(state)) by_age[*age] = state;
    catch_up_plan out;
    while (!by_age.empty()) {
      const auto oldest = std::prev(by_age.end());
      auto delta = history.merged(oldest->first, store.shape(), tensors, bucket_bytes_max,
                                  bytes_max);
      if (delta) {
        out.source = std::make_shared<delta_source>(std::move(*delta));
        for (const auto& [age, state] : by_age) out.known.push_back(state);
        break;
      }
      by_age.erase(oldest);
    }
    return out;
  });
}

full_source::full_source(std::shared_ptr<const snapshot_store> store,
                         std::uint64_t bucket_bytes_max, std::size_t kept_max)
    : store_(std::move(store)),
      generation_(store_->generation()),
      plan_(store_->read([&](const tensor_views& tensors) {
        return full_plan(store_->shape(), tensors, bucket_bytes_max);
      })),
      kept_max_(kept_max) {}

payload full_source::bucket(std::uint32_t index) {
  const std::lock_guard lock(mutex_);
  if (const auto it = kept_.find(index); it != kept_.end()) return it->second;
  payload made;
  store_->read_if(generation_,
                  [&](const tensor_views& tensors) { made = plan_.make(index, tensors); });
  if (made.size() == 0) return made;
  // Flushers move forward at about the same pace; whoever is far behind makes its bucket anew.
  if (kept_.size() == kept_max_) kept_.erase(kept_.begin());
  kept_.emplace(index, made);
  return made;
}

}  // namespace lockstep
