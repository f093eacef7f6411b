// Decides how weights in the host's memory are staged over, written and read.
#pragma once

#include "weights/bucket_stager.hpp"
#include "weights/weight_memory.hpp"

namespace lockstep {

/// Weights that the processor reads and writes where they lie.
class host_memory final : public weight_memory {
 public:
  /// Borrowed.
  explicit host_memory(tensor_spans tensors);

  std::span<const std::byte> tensor(std::size_t index) const noexcept override;
  void read(std::size_t index, std::span<std::byte> out) override;
  void keep(std::uint32_t index, payload bucket) override;
  failure stage(std::uint32_t index, payload bucket, std::uint64_t bytes_max) override;
  failure verify(const digest& base, const digest& target) override;
  failure check() override;
  failure apply(std::vector<std::size_t>& touched) override;
  failure apply_share(double share, std::vector<std::size_t>& touched) override;
  void forget() noexcept override;
  std::uint64_t staged_bytes() const noexcept override;
  failure write(const payload& bucket, std::vector<std::size_t>& touched) override;
  failure write_share(const payload& bucket, double share,
                      std::vector<std::size_t>& touched) override;
  payload cut(std::uint64_t bucket_bytes_max, std::uint32_t count, std::uint32_t index) override;
  digest state() override;
  std::pair<digest, digest> states(std::uint64_t challenge) override;
  std::vector<digest> states_of_each(std::uint64_t seed) override;

 private:
  /// Writes this part of all frames.
  failure write_some(std::span<const payload> buckets, double share,
                     std::vector<std::size_t>& touched);

  tensor_spans tensors_;
  std::vector<payload> staged_;
  std::optional<bucket_stager> stager_;  ///< of the buckets that have come so far
  std::optional<full_cut> cut_;          ///< as it was asked for last
};

}  // namespace lockstep
