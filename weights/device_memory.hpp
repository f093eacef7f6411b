// Decides how weights in a device's memory are staged over, written and read: by the device.
#pragma once

#include <mutex>

#include "weights/device_stage.hpp"
#include "weights/device_weights.hpp"
#include "weights/weight_memory.hpp"

namespace lockstep {

/// Weights that only kernels of their device read and write. What crosses to it are buckets, and
/// back from it digests, and buckets of all weights that are asked for.
///
/// A device that fails is an `errc::apply_failed` where something is staged or written, and a
/// `device_error` elsewhere. `read` may be called on any thread at any time.
class device_memory final : public weight_memory {
 public:
  /// Waits for all that is enqueued on the engine's stream. Throws `error{wrong_layout}` if the
  /// tensors are not those of the layout, `error{no_memory}` if the device has no memory for it,
  /// and `error{bad_input}` with what else it says: patience that ended, a stream of another
  /// device.
  device_memory(const layout& shape, device_weights weights);

  std::span<const std::byte> tensor(std::size_t) const noexcept override { return {}; }
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
  /// All of these in a scope, with the mutex held.
  device_stage& stage_from(device_stage::from what);
  failure write_staged(std::vector<std::size_t>& touched);
  failure unless_sound() const;
  std::string roll_back();
  failure write_bucket(const payload& bucket, std::optional<double> share,
                       std::vector<std::size_t>& touched);
  payload make_bucket(const full_cut::place& from);

  std::vector<digest> states_under(const std::vector<std::uint64_t>& seeds);

  mutable std::mutex mutex_;
  device_weights weights_;
  device_queue queue_;
  std::optional<device_model> model_;
  device_block<std::byte> work_;
  std::vector<payload> kept_;          ///< here, until they are checked
  std::optional<device_stage> stage_;  ///< of the buckets that have come so far
  std::optional<full_cut> cut_;        ///< as it was asked for last
};

}  // namespace lockstep
