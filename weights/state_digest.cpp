#include "weights/state_digest.hpp"

#include <fmt/format.h>
#include <xxhash.h>
#include <zlib.h>

#include <algorithm>
#include <new>

#include "messages/ids.hpp"
#include "weights/stopping.hpp"
#include "weights/tensor_windows.hpp"
#include "weights/workers.hpp"

#ifdef LOCKSTEP_XXHASH_DISPATCHES
#include <xxh_x86dispatch.h>  // other names for what is called below
#endif

namespace lockstep {

struct published_hasher::state {
  XXH3_state_t* xxh3 = nullptr;
  unsigned long adler = 1;
  ~state() { XXH3_freeState(xxh3); }
};

published_hasher::published_hasher(published_checksum format) : state_(std::make_unique<state>()) {
  if (format != published_checksum::xxh3_128) return;
  state_->xxh3 = XXH3_createState();
  if (!state_->xxh3) throw std::bad_alloc();
  XXH3_128bits_reset(state_->xxh3);
}

published_hasher::published_hasher(published_hasher&&) noexcept = default;
published_hasher& published_hasher::operator=(published_hasher&&) noexcept = default;
published_hasher::~published_hasher() = default;

void published_hasher::update(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  if (state_->xxh3)
    XXH3_128bits_update(state_->xxh3, bytes.data(), bytes.size());
  else
    state_->adler =
        adler32_z(state_->adler, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size());
}

std::string published_hasher::digest() const {
  if (!state_->xxh3) return fmt::format("{:08x}", state_->adler);
  const auto hash = XXH3_128bits_digest(state_->xxh3);
  return to_string(hash128{hash.high64, hash.low64});
}

std::string state_digest(const layout& shape, const std::vector<std::string>& digests) {
  published_hasher sum(published_checksum::xxh3_128);
  for (std::size_t i = 0; i < shape.count(); ++i) {
    const auto line = shape[i].name + '\0' + digests[i] + '\n';
    sum.update(std::as_bytes(std::span(line)));
  }
  return sum.digest();
}

std::string state_digest(const checkpoint& from, const std::function<bool()>& stopping) {
  return state_digest(from.shape(), tensor_digests(from, published_checksum::xxh3_128, stopping));
}

std::vector<std::string> tensor_digests(const checkpoint& from, published_checksum format,
                                        const std::function<bool()>& stopping) {
  std::vector<std::string> out(from.shape().count());
  read_tensors(from, [&](std::size_t i, const auto& read) {
    published_hasher hash(format);
    read([&](std::uint64_t, std::span<const std::byte> piece) {
      heed(stopping, from.path());
      hash.update(piece);
    });
    out[i] = hash.digest();
  });
  return out;
}

std::vector<std::string> tensor_digests(const layout& shape, const tensor_reader& tensors) {
  std::vector<std::string> out(shape.count());
  for_each_index(out.size(), [&](std::size_t i) {
    out[i] = published_digest(published_checksum::xxh3_128, tensors(i));
  });
  return out;
}

}  // namespace lockstep
