#include "weights/host_memory.hpp"

#include <algorithm>
#include <cstring>

namespace lockstep {

host_memory::host_memory(tensor_spans tensors) : tensors_(std::move(tensors)) {}

std::span<const std::byte> host_memory::tensor(std::size_t index) const noexcept {
  const auto& bytes = tensors_[index].bytes;
  return {bytes.data, bytes.size};
}

void host_memory::read(std::size_t index, std::span<std::byte> out) {
  if (!out.empty()) std::memcpy(out.data(), tensor(index).data(), out.size());
}

void host_memory::keep(std::uint32_t index, payload bucket) {
  if (staged_.size() <= index) staged_.resize(std::size_t{index} + 1);
  staged_[index] = std::move(bucket);
}

weight_memory::failure host_memory::stage(std::uint32_t index, payload bucket,
                                          std::uint64_t bytes_max) {
  keep(index, std::move(bucket));
  if (!stager_) stager_.emplace(public_digest_seed, as_views(tensors_), bytes_max);
  return stager_->stage({&staged_[index], 1}, index);
}

weight_memory::failure host_memory::verify(const digest& base, const digest& target) {
  staged_states states;
  if (!stager_) stager_.emplace(public_digest_seed, as_views(tensors_), 0);  // no bucket at all
  const auto bad = std::exchange(stager_, std::nullopt)->finish(states);
  // Over other bytes than it was made for a sound delta seems not to be one.
  if ((bad ? state() : states.base) != base)
    return bucket_failure{errc::wrong_base, "the bytes held do not digest to the base"};
  if (bad) return bad;
  if (states.target != target)
    return bucket_failure{errc::wrong_target, "the delta does not lead to the target"};
  return std::nullopt;
}

weight_memory::failure host_memory::check() {
  return check_buckets(staged_, as_views(tensors_));
}

weight_memory::failure host_memory::apply(std::vector<std::size_t>& touched) {
  return apply_buckets(staged_, tensors_, touched);
}

weight_memory::failure host_memory::apply_share(double share, std::vector<std::size_t>& touched) {
  return write_some(staged_, share, touched);
}

weight_memory::failure host_memory::write_some(std::span<const payload> buckets, double share,
                                               std::vector<std::size_t>& touched) {
  const auto views = as_views(tensors_);
  std::size_t frames = 0;
  for (const auto& bucket : buckets) frames += count_frames(bucket, views);
  auto left = static_cast<std::size_t>(static_cast<double>(frames) * share);
  for (const auto& bucket : buckets) {
    if (auto bad = apply_bucket(bucket, tensors_, touched, left)) return bad;
    left -= std::min(left, count_frames(bucket, views));
  }
  return std::nullopt;
}

void host_memory::forget() noexcept {
  stager_.reset();
  std::vector<payload>().swap(staged_);
}

std::uint64_t host_memory::staged_bytes() const noexcept {
  std::uint64_t sum = 0;
  for (const auto& bucket : staged_) sum += bucket.size();
  return sum;
}

weight_memory::failure host_memory::write(const payload& bucket,
                                          std::vector<std::size_t>& touched) {
  return apply_bucket(bucket, tensors_, touched);
}

weight_memory::failure host_memory::write_share(const payload& bucket, double share,
                                                std::vector<std::size_t>& touched) {
  return write_some({&bucket, 1}, share, touched);
}

payload host_memory::cut(std::uint64_t bucket_bytes_max, std::uint32_t count, std::uint32_t index) {
  const auto views = as_views(tensors_);
  if (!cut_ || cut_->bucket_bytes_max() != bucket_bytes_max) cut_.emplace(views, bucket_bytes_max);
  return cut_->count() == count && index < count ? cut_->make(index, views) : payload();
}

digest host_memory::state() {
  return digest_of(public_digest_seed, as_views(tensors_));
}

std::pair<digest, digest> host_memory::states(std::uint64_t challenge) {
  return digest_pair(public_digest_seed, challenge, as_views(tensors_));
}

std::vector<digest> host_memory::states_of_each(std::uint64_t seed) {
  return digests_of(seed, as_views(tensors_));
}

}  // namespace lockstep
