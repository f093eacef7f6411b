#include "actors/engine.hpp"

#include <algorithm>
#include <exception>
#include <new>
#include <utility>

#include "actors/patience.hpp"
#include "weights/file.hpp"

namespace lockstep {

namespace {

/// Runs `work`; whatever it throws becomes a failure of `reason`.
template <class Work>
engine::failure guarded(errc reason, Work work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return {errc::no_memory, "out of memory"};
  } catch (const std::exception& e) {
    return {reason, printable(e.what())};  // a hook's words must not break a line of the log
  } catch (...) {
    return {reason, "an exception of an unknown type"};
  }
}

engine::failure as_failure(std::optional<bucket_failure> f) {
  if (!f) return {};
  return {f->reason, std::move(f->detail)};
}

}  // namespace

engine::engine(receiver_id id, std::string name, layout shape,
               std::vector<std::span<std::byte>> memory, receiver_hooks hooks,
               std::shared_ptr<fault_source> faults, shard_mask taken)
    : id_(id),
      name_(std::move(name)),
      model_(shape.fingerprint()),
      taken_(std::move(taken)),
      shape_(shard_layout(shape, taken_)),
      hooks_(std::move(hooks)),
      faults_(std::move(faults)) {
  if (memory.empty() && shape_.count() != 0) {
    own_ = weight_buffer(shape_);
    for (std::size_t i = 0; i < shape_.count(); ++i) memory.push_back(own_.tensor(i));
  }
  if (memory.size() != shape_.count())
    throw error(errc::wrong_layout, name_ + ": memory for " + std::to_string(memory.size()) +
                                        " tensors, the layout has " +
                                        std::to_string(shape_.count()));
  for (std::size_t i = 0; i < memory.size(); ++i) {
    if (memory[i].size() != shape_.bytes(i))
      throw error(errc::wrong_layout, name_ + ": memory of tensor '" + shape_[i].name + "' has " +
                                          std::to_string(memory[i].size()) + " bytes, not " +
                                          std::to_string(shape_.bytes(i)));
    memory_.push_back({{memory[i].data(), memory[i].size()}, unit_bytes(shape_[i].type)});
  }
  state_.reason = errc::not_serving;
}

std::span<const std::byte> engine::tensor(std::size_t index) const {
  const auto& bytes = memory_[index].bytes;
  return {bytes.data, bytes.size};
}

engine::failure engine::pause() {
  return guarded(errc::hook_failed, [&] {
    if (!stopped_ && hooks_.pause) hooks_.pause();
    stopped_ = true;
    return failure{};
  });
}

void engine::resume(const target_info& target, std::string& complaint) {
  if (!std::exchange(stopped_, false)) return;
  complaint = guarded(errc::hook_failed, [&] {
                if (hooks_.resume) hooks_.resume(target.version, target.label);
                return failure{};
              }).detail;
}

void engine::keep(std::uint32_t index, payload bucket) {
  if (unsound_) return;
  unsound_ = guarded(errc::no_memory, [&] {
    if (staged_.size() <= index) staged_.resize(std::size_t{index} + 1);
    staged_[index] = std::move(bucket);
    return failure{};
  });
}

// Each as it comes: when the last one has, nearly all of the base has been read.
engine::failure engine::stage(std::uint32_t index, payload bucket, std::uint64_t bytes_max) {
  if (unsound_) return {};
  keep(index, std::move(bucket));
  if (!unsound_)
    unsound_ = guarded(errc::bad_frame, [&] {
      if (!stager_) stager_.emplace(public_digest_seed, as_views(memory_), bytes_max);
      return as_failure(stager_->stage({&staged_[index], 1}, index));
    });
  // What came before it is of no use any more.
  if (unsound_) forget();
  return unsound_;
}

void engine::forget() {
  stager_.reset();
  staged_.clear();
  staged_.shrink_to_fit();
}

void engine::drop() {
  forget();
  unsound_ = {};
}

std::uint64_t engine::staged_bytes() const noexcept {
  std::uint64_t sum = 0;
  for (const auto& bucket : staged_) sum += bucket.size();
  return sum;
}

engine::failure engine::check() const {
  if (unsound_) return unsound_;
  return guarded(errc::bad_frame,
                 [&] { return as_failure(check_buckets(staged_, as_views(memory_))); });
}

engine::failure engine::verify(const digest& base, const digest& target) {
  return guarded(errc::bad_frame, [&]() -> failure {
    staged_states states;
    auto bad = unsound_;
    if (!bad) {
      if (!stager_) stager_.emplace(public_digest_seed, as_views(memory_), 0);  // no bucket at all
      bad = as_failure(std::exchange(stager_, std::nullopt)->finish(states));
    }
    // Over other bytes than it was made for a sound delta seems not to be one.
    if ((bad ? digest_of(public_digest_seed, as_views(memory_)) : states.base) != base)
      return {errc::wrong_base, "the bytes held do not digest to the base"};
    if (bad) return bad;
    if (states.target != target)
      return {errc::wrong_target, "the delta does not lead to the target"};
    return {};
  });
}

engine::failure engine::apply(const target_info& target, std::optional<double> share) {
  if (auto failed = pause()) return failed;
  return guarded(errc::apply_failed, [&]() -> failure {
    std::vector<std::size_t> touched;
    if (share) return apply_share(staged_, *share, touched);
    if (auto bad = as_failure(apply_buckets(staged_, memory_, touched))) return bad;
    return tell_engine(target, touched);
  });
}

engine::failure engine::apply_share(std::span<const payload> buckets, double share,
                                    std::vector<std::size_t>& touched) {
  const auto views = as_views(memory_);
  std::size_t frames = 0;
  for (const auto& bucket : buckets) frames += count_frames(bucket, views);
  auto left = static_cast<std::size_t>(static_cast<double>(frames) * share);
  for (const auto& bucket : buckets) {
    if (auto bad = as_failure(apply_bucket(bucket, memory_, touched, left))) return bad;
    left -= std::min(left, count_frames(bucket, views));
  }
  return {errc::apply_failed, "interrupted on purpose"};
}

engine::failure engine::write_full(const payload& bucket, std::optional<double> share) {
  if (auto failed = pause()) return failed;
  return guarded(errc::apply_failed, [&] {
    std::vector<std::size_t> touched;
    if (share) return apply_share({&bucket, 1}, *share, touched);
    return as_failure(apply_bucket(bucket, memory_, touched));
  });
}

engine::failure engine::finish_full(const target_info& target) {
  std::vector<std::size_t> all;
  for (std::size_t i = 0; i < shape_.count(); ++i)
    if (taken_.empty() || taken_[i]) all.push_back(i);
  return tell_engine(target, all);
}

engine::failure engine::tell_engine(const target_info& target,
                                    const std::vector<std::size_t>& touched) {
  // Not hook_failed: that says that the engine has not even stopped.
  return guarded(errc::apply_failed, [&] {
    if (hooks_.apply) hooks_.apply(target.version, target.label, touched);
    return failure{};
  });
}

payload engine::cut(std::uint64_t bucket_bytes_max, std::uint32_t count, std::uint32_t index) {
  payload out;
  (void)guarded(errc::no_memory, [&] {
    const auto views = as_views(memory_);
    if (!cut_ || cut_->bucket_bytes_max() != bucket_bytes_max)
      cut_.emplace(views, bucket_bytes_max);
    if (cut_->count() == count && index < count) out = cut_->make(index, views);
    return failure{};
  });
  return out;
}

std::pair<digest, digest> engine::digests_now(std::uint64_t challenge) const {
  return digest_pair(public_digest_seed, challenge, as_views(memory_));
}

std::vector<digest> engine::digests_under(std::uint64_t seed) const {
  return digests_of(seed, as_views(memory_));
}

bool engine::strikes(fault_kind kind, const transfer_ref& what) const {
  return faults_ && faults_->strikes(kind, what, id_);
}

engine::failure engine::publish(const readiness& state) {
  {
    const std::lock_guard lock(mutex_);
    state_ = state;
    if (state.ready) refusal_ = {};
  }
  changed_.notify_all();
  return guarded(errc::hook_failed, [&] {
    if (hooks_.readiness_changed) hooks_.readiness_changed(state);
    return failure{};
  });
}

void engine::refuse(failure why) {
  const std::lock_guard lock(mutex_);
  refusal_ = std::move(why);
}

engine::failure engine::refusal() const {
  const std::lock_guard lock(mutex_);
  return refusal_;
}

readiness engine::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

bool engine::wait_ready(std::uint64_t label, std::chrono::milliseconds timeout) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, patience_of(timeout),
                           [&] { return state_.ready && state_.label >= label; });
}

}  // namespace lockstep
