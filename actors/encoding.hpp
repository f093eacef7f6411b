// Decides how a rank's part of a delta is made. Private to actors/.
#pragma once

#include <memory>

#include "actors/snapshot_store.hpp"
#include "config/settings.hpp"
#include "kernels/coded.hpp"

namespace lockstep {

/// How a trainer with these settings cuts its buckets. Others may pass them on where there is a
/// fan-out, and must not be able to make others for the same manifest.
bucket_form form_of(const settings& s);

/// What leads from the snapshot to the trainer's tensors.
struct encoding {
  std::shared_ptr<delta_source> delta;
  digest state;  ///< that it leads to, under the public key
};

/// In frames of `choice`. Reads the trainer's tensors once. `closed` sees buckets while those after
/// them are being encoded (weights/bucket_codec.hpp). Throws `error{wrong_layout}` naming the
/// tensor whose size is not the store's, `std::bad_alloc`, and whatever `tensors` throws.
encoding encode_against(const snapshot_store& store, const tensor_reader& tensors,
                        kernels::encoding_choice choice, const bucket_form& form,
                        const bucket_sink& closed = {});

/// Calls `work`, and says what it threw; nothing if it returned.
std::optional<std::pair<errc, std::string>> failure_of(const std::function<void()>& work);

/// The parts of a manifest, one a rank, as one: `layout` is the whole model's.
manifest merged(const std::vector<manifest>& parts, const hash128& layout);
/// Digests add up.
digest operator+(const digest& a, const digest& b);

}  // namespace lockstep
