#include "actors/engine.hpp"

#include <exception>
#include <new>
#include <stdexcept>
#include <utility>

#include "actors/patience.hpp"
#include "weights/device_memory.hpp"
#include "weights/file.hpp"
#include "weights/host_memory.hpp"

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

/// What becomes of a write of which this came, and that was not to be the whole one.
engine::failure interrupted(std::optional<bucket_failure> f) {
  if (f) return as_failure(std::move(f));
  return {errc::apply_failed, "interrupted on purpose"};
}

/// The spans of a whole layout. Throws `error{wrong_layout}` if they are not.
tensor_spans spans_of(const std::string& name, const layout& shape,
                      const std::vector<std::span<std::byte>>& memory) {
  if (memory.size() != shape.count())
    throw error(errc::wrong_layout, name + ": memory for " + std::to_string(memory.size()) +
                                        " tensors, the layout has " +
                                        std::to_string(shape.count()));
  tensor_spans out;
  for (std::size_t i = 0; i < memory.size(); ++i) {
    if (memory[i].size() != shape.bytes(i))
      throw error(errc::wrong_layout, name + ": memory of tensor '" + shape[i].name + "' has " +
                                          std::to_string(memory[i].size()) + " bytes, not " +
                                          std::to_string(shape.bytes(i)));
    out.push_back({{memory[i].data(), memory[i].size()}, unit_bytes(shape[i].type)});
  }
  return out;
}

}  // namespace

engine::engine(receiver_id id, std::string name, const layout& shape,
               std::unique_ptr<weight_memory> memory, receiver_hooks hooks,
               std::shared_ptr<fault_source> faults, shard_mask taken)
    : id_(id),
      name_(std::move(name)),
      model_(shape.fingerprint()),
      taken_(std::move(taken)),
      shape_(shard_layout(shape, taken_)),
      memory_(std::move(memory)),
      hooks_(std::move(hooks)),
      faults_(std::move(faults)) {
  state_.reason = errc::not_serving;
}

engine::engine(receiver_id id, std::string name, layout shape,
               std::vector<std::span<std::byte>> memory, receiver_hooks hooks,
               std::shared_ptr<fault_source> faults, shard_mask taken, device_weights device)
    : engine(id, std::move(name), shape, nullptr, std::move(hooks), std::move(faults),
             std::move(taken)) {
  if (device.device) {
    if (!memory.empty())
      throw error(errc::wrong_layout, name_ + ": memory of the host and of a device");
    memory_ = std::make_unique<device_memory>(shape_, std::move(device));
  } else {
    if (!device.tensors.empty())
      throw error(errc::bad_input, name_ + ": memory of a device, and it is not said of which");
    if (memory.empty() && shape_.count() != 0) {
      own_ = weight_buffer(shape_);
      for (std::size_t i = 0; i < shape_.count(); ++i) memory.push_back(own_.tensor(i));
    }
    memory_ = std::make_unique<host_memory>(spans_of(name_, shape_, memory));
  }
}

std::span<const std::byte> engine::tensor(std::size_t index) const {
  const auto bytes = memory_->tensor(index);
  if (bytes.size() != shape_.bytes(index))
    throw error(errc::bad_input, name_ + ": its tensors lie in a device's memory");
  return bytes;
}

std::vector<std::byte> engine::read(std::size_t index) const {
  try {
    std::vector<std::byte> out(static_cast<std::size_t>(shape_.bytes(index)));
    memory_->read(index, out);
    return out;
  } catch (const std::bad_alloc&) {
    throw error(errc::no_memory, name_ + ": no memory for a copy of a tensor");
  } catch (const std::runtime_error& e) {
    throw error(errc::bad_input, name_ + ": " + e.what());
  }
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
    memory_->keep(index, std::move(bucket));
    return failure{};
  });
}

// Each as it comes: when the last one has, nearly all of the base has been read.
engine::failure engine::stage(std::uint32_t index, payload bucket, std::uint64_t bytes_max) {
  if (unsound_) return {};
  unsound_ = guarded(errc::bad_frame, [&] {
    return as_failure(memory_->stage(index, std::move(bucket), bytes_max));
  });
  // What came before it is of no use any more.
  if (unsound_) memory_->forget();
  return unsound_;
}

void engine::drop() {
  memory_->forget();
  unsound_ = {};
}

std::uint64_t engine::staged_bytes() const noexcept {
  return memory_->staged_bytes();
}

engine::failure engine::check() {
  if (unsound_) return unsound_;
  return guarded(errc::bad_frame, [&] { return as_failure(memory_->check()); });
}

engine::failure engine::verify(const digest& base, const digest& target) {
  return guarded(unsound_ ? unsound_.reason : errc::bad_frame, [&]() -> failure {
    if (!unsound_) return as_failure(memory_->verify(base, target));
    // Over other bytes than it was made for a sound delta seems not to be one.
    if (memory_->state() != base)
      return {errc::wrong_base, "the bytes held do not digest to the base"};
    return unsound_;
  });
}

engine::failure engine::apply(const target_info& target, std::optional<double> share) {
  if (auto failed = pause()) return failed;
  return guarded(errc::apply_failed, [&]() -> failure {
    std::vector<std::size_t> touched;
    if (share) return interrupted(memory_->apply_share(*share, touched));
    if (auto bad = as_failure(memory_->apply(touched))) return bad;
    return tell_engine(target, touched);
  });
}

engine::failure engine::write_full(const payload& bucket, std::optional<double> share) {
  if (auto failed = pause()) return failed;
  return guarded(errc::apply_failed, [&] {
    std::vector<std::size_t> touched;
    if (share) return interrupted(memory_->write_share(bucket, *share, touched));
    return as_failure(memory_->write(bucket, touched));
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
    out = memory_->cut(bucket_bytes_max, count, index);
    return failure{};
  });
  return out;
}

std::pair<digest, digest> engine::digests_now(std::uint64_t challenge) {
  return memory_->states(challenge);
}

std::vector<digest> engine::digests_under(std::uint64_t seed) {
  return memory_->states_of_each(seed);
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

void engine::trust_until(std::chrono::steady_clock::time_point when) {
  {
    const std::lock_guard lock(mutex_);
    if (when == std::exchange(trusted_until_, when)) return;
  }
  changed_.notify_all();
}

readiness engine::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

readiness engine::state_at(std::chrono::steady_clock::time_point now) const {
  const std::lock_guard lock(mutex_);
  return state_locked(now);
}

readiness engine::state_locked(std::chrono::steady_clock::time_point now) const {
  auto out = state_;
  if (out.ready && now >= trusted_until_) {
    out.ready = false;
    out.reason = errc::lease_expired;
  }
  return out;
}

bool engine::wait_ready(std::uint64_t label, std::chrono::milliseconds timeout) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, patience_of(timeout), [&] {
    const auto now = state_locked(std::chrono::steady_clock::now());
    return now.ready && now.label >= label;
  });
}

}  // namespace lockstep
