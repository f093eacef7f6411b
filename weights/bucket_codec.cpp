#include "weights/bucket_codec.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <mutex>
#include <utility>

#include "weights/bucket_parts.hpp"
#include "weights/workers.hpp"

namespace lockstep {

namespace {

kernels::digest_sum digest_part(const kernels::digest_key& key, const tensor_views& tensors,
                                const tensor_part& part) {
  return kernels::digest_range(key, part.tensor, part.offset,
                               {tensors[part.tensor].bytes.data + part.offset, part.bytes});
}

/// Digests under each of `keys`. Memory is read once: a piece stays in the cache for the next key.
template <std::size_t Keys>
std::array<digest, Keys> sum_over(const tensor_views& tensors,
                                  const std::array<const kernels::digest_key*, Keys>& keys) {
  constexpr std::size_t piece_bytes = 16 * kernels::digest_tile_bytes;
  const batches all(tensors);
  std::vector<std::array<kernels::digest_sum, Keys>> sums(all.count());
  for_each_index(all.count(), [&](std::size_t i) {
    for (const auto& part : all[i])
      for (std::size_t at = 0; at < part.bytes; at += piece_bytes)
        for (std::size_t k = 0; k < Keys; ++k)
          sums[i][k] +=
              digest_part(*keys[k], tensors,
                          {part.tensor, part.offset + at, std::min(piece_bytes, part.bytes - at)});
  });
  std::array<digest, Keys> out;
  for (std::size_t k = 0; k < Keys; ++k) {
    kernels::digest_sum sum;
    for (const auto& s : sums) sum += s[k];
    out[k] = to_digest(sum);
  }
  return out;
}

batch_frames encode_batch(std::span<const tensor_part> which, const tensor_views& base,
                          const tensor_views& target,
                          const std::vector<kernels::class_model>& models,
                          kernels::encoding_choice choice, const kernels::digest_key* key,
                          kernels::delta_encoder& encoder) {
  batch_frames out;
  for_each_range(which, [&](std::uint32_t i, std::size_t at) {
    out.changed += encoder.encode(i, base[i], target[i], at, models[i], choice, out.bytes);
    const auto range = range_at(target[i], at);
    if (key != nullptr) out.state += kernels::digest_range(*key, i, at, range);  // it is cached
    out.end_frame();
  });
  return out;
}

}  // namespace

tensor_views as_views(const tensor_spans& tensors) {
  return {tensors.begin(), tensors.end()};
}

tensor_views views_of(const layout& shape, const tensor_reader& tensors) {
  tensor_views out;
  for (std::size_t i = 0; i < shape.count(); ++i) {
    const auto bytes = tensors(i);
    if (bytes.size() != shape.bytes(i))
      throw error(errc::wrong_layout, "tensor '" + shape[i].name + "' has " +
                                          std::to_string(bytes.size()) + " bytes, not " +
                                          std::to_string(shape.bytes(i)));
    out.push_back({{bytes.data(), bytes.size()}, unit_bytes(shape[i].type)});
  }
  return out;
}

digest digest_of(std::uint64_t seed, const tensor_views& tensors) {
  return sum_over<1>(tensors, {key_of(seed).get()}).front();
}

std::pair<digest, digest> digest_pair(std::uint64_t seed, std::uint64_t other,
                                      const tensor_views& tensors) {
  const auto sums = sum_over<2>(tensors, {key_of(seed).get(), key_of(other).get()});
  return {sums[0], sums[1]};
}

std::vector<digest> digests_of(std::uint64_t seed, const tensor_views& tensors) {
  const auto key = key_of(seed);
  const batches all(tensors);
  std::vector<kernels::digest_sum> sums(tensors.size());
  std::mutex mutex;
  for_each_index(all.count(), [&](std::size_t i) {
    for (const auto& part : all[i]) {
      const auto sum = digest_part(*key, tensors, part);
      const std::lock_guard lock(mutex);
      sums[part.tensor] += sum;
    }
  });
  std::vector<digest> out;
  std::ranges::transform(sums, std::back_inserter(out), to_digest);
  return out;
}

encoded_delta encode_delta(const layout& shape, const tensor_views& base,
                           const tensor_views& target, const bucket_form& form,
                           kernels::encoding_choice choice, digest* target_state,
                           bucket_sink closed) {
  encoded_delta out;
  out.content.layout = shape.fingerprint();
  const batches all(base);
  batch_packer pack(out.content, form, all.count(), std::move(closed));
  std::vector<kernels::class_model> models(base.size());
  if (choice == kernels::encoding_choice::coded)
    for_each_index(all.count(), [&](std::size_t i) {
      for (const auto& part : all[i])
        if (part.offset == 0)
          models[part.tensor] = kernels::plan_classes(base[part.tensor], target[part.tensor]);
    });
  std::vector<kernels::digest_sum> states(all.count());
  const auto key = key_of(public_digest_seed);
  const auto* const digested = target_state == nullptr ? nullptr : key.get();
  run_jobs<kernels::delta_encoder>(all.count(), [&](std::size_t i, auto& encoder) {
    auto made = encode_batch(all[i], base, target, models, choice, digested, encoder);
    states[i] = made.state;
    pack.add(i, std::move(made));
  });
  kernels::digest_sum state;
  for (const auto& s : states) state += s;
  out.buckets = pack.finish();
  if (target_state != nullptr) *target_state = to_digest(state);
  return out;
}

encoded_delta repacked(const layout& shape, std::span<const payload> buckets,
                       const tensor_views& tensors, const bucket_form& form) {
  encoded_delta out;
  out.content.layout = shape.fingerprint();
  packer pack(out.content, form);
  std::vector<std::byte> bytes;
  for (const auto& bucket : buckets)
    for_each_frame(bucket, tensors, [&](const kernels::frame& f, kernels::bytes_view whole) {
      out.content.changed += f.count;
      bytes.assign(whole.data, whole.data + whole.size);
      pack.add(bytes);
      return true;
    });
  out.buckets = pack.finish();
  return out;
}

encoded_delta carved(const layout& part, std::span<const payload> buckets,
                     const tensor_views& tensors, const bucket_form& form) {
  encoded_delta out;
  out.content.layout = part.fingerprint();
  packer pack(out.content, form);
  std::vector<frame_at> frames;
  std::vector<std::byte> bytes;
  for (const auto& bucket : buckets) {
    frames.clear();
    if (const auto bad = parse_bucket(bucket, tensors, frames))
      throw error(errc::encode_failed, bad->detail);
    for (std::size_t i = 0; i < frames.size(); ++i) {
      const auto& f = frames[i].frame;
      if (part.bytes(f.tensor) == 0) continue;
      out.content.changed += f.count;
      const auto end = i + 1 < frames.size() ? frames[i + 1].at : bucket.size();
      bytes.assign(bucket.data() + frames[i].at, bucket.data() + end);
      pack.add(bytes);
    }
  }
  out.buckets = pack.finish();
  return out;
}

full_cut::full_cut(const tensor_views& tensors, std::uint64_t bucket_bytes_max)
    : bucket_bytes_max_(bucket_bytes_max) {
  for (std::uint32_t t = 0; t < tensors.size(); ++t) {
    const auto size = tensors[t].bytes.size;
    for (std::uint64_t offset = 0; offset < size; offset += kernels::frame_span_bytes_max) {
      const auto frame = kernels::frame_header_bytes +
                         std::min<std::uint64_t>(size - offset, kernels::frame_span_bytes_max);
      if (places_.empty() || places_.back().bytes + frame > bucket_bytes_max_)
        places_.push_back({t, offset, 0});
      places_.back().bytes += frame;
    }
  }
}

void full_cut::fill(std::size_t index, const tensor_views& tensors,
                    std::vector<std::byte>& out) const {
  auto [tensor, offset, bytes] = places_[index];
  out.clear();
  out.reserve(static_cast<std::size_t>(bytes));
  while (out.size() < bytes) {
    if (offset >= tensors[tensor].bytes.size) {
      ++tensor;
      offset = 0;
      continue;
    }
    kernels::encode_full(tensor, tensors[tensor], static_cast<std::size_t>(offset), out);
    offset += kernels::frame_span_bytes_max;
  }
}

payload full_cut::make(std::size_t index, const tensor_views& tensors) const {
  std::vector<std::byte> out;
  fill(index, tensors, out);
  return payload(std::move(out));
}

full_plan::full_plan(const layout& shape, const tensor_views& tensors, const bucket_form& form)
    : cut_(tensors, form.bytes_max) {
  content_.layout = shape.fingerprint();
  for (const auto& t : tensors) content_.changed += t.bytes.size / t.unit;
  content_.buckets.resize(cut_.count());
  run_jobs<std::vector<std::byte>>(cut_.count(), [&](std::size_t i, std::vector<std::byte>& bytes) {
    cut_.fill(i, tensors, bytes);
    content_.buckets[i] = {bytes.size(), hash_of(std::span<const std::byte>(bytes), form.hash)};
  });
  for (const auto& b : content_.buckets) content_.bytes += b.bytes;
}

std::optional<bucket_failure> check_buckets(std::span<const payload> buckets,
                                            const tensor_views& tensors) {
  // Within a bucket ranges ascend; over all of them only where the trainer has one rank.
  range_claims claims(tensors);
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    const char* wrong = nullptr;
    std::optional<std::pair<std::uint32_t, std::uint64_t>> last;
    auto failure = for_each_frame(buckets[i], tensors, [&](const kernels::frame& f) {
      const std::pair at(f.tensor, f.offset);
      if (last && at <= *last)
        wrong = ranges_disordered;
      else if (!claims.claim(f.tensor, f.offset))
        wrong = range_twice;
      last = at;
      return wrong == nullptr;
    });
    if (wrong != nullptr) failure = bucket_failure{errc::bad_frame, wrong};
    if (failure) {
      failure->detail = "bucket " + std::to_string(i) + ", " + failure->detail;
      return failure;
    }
  }
  return std::nullopt;
}

digest predict(std::uint64_t seed, const digest& base, std::span<const payload> buckets,
               const tensor_views& tensors) {
  const auto key = key_of(seed);
  std::vector<kernels::digest_sum> changes(buckets.size());
  for_each_index(buckets.size(), [&](std::size_t i) {
    for_each_frame(buckets[i], tensors, [&](const kernels::frame& f) {
      changes[i] += kernels::change_of(*key, f, tensors[f.tensor]);
      return true;
    });
  });
  kernels::digest_sum sum{{base.lane0, base.lane1}};
  for (const auto& change : changes) sum += change;
  return to_digest(sum);
}

std::optional<bucket_failure> apply_bucket(const payload& bucket, const tensor_spans& tensors,
                                           std::vector<std::size_t>& touched,
                                           std::size_t frames_max) {
  return for_each_frame(bucket, as_views(tensors), [&](const kernels::frame& f) {
    if (frames_max == 0) return false;
    --frames_max;
    kernels::apply_frame(f, tensors[f.tensor]);
    const std::size_t index = f.tensor;
    const auto at = std::lower_bound(touched.begin(), touched.end(), index);
    if (at == touched.end() || *at != index) touched.insert(at, index);
    return true;
  });
}

std::optional<bucket_failure> apply_buckets(std::span<const payload> buckets,
                                            const tensor_spans& tensors,
                                            std::vector<std::size_t>& touched) {
  std::vector<std::optional<bucket_failure>> failures(buckets.size());
  std::vector<std::vector<std::size_t>> each(buckets.size());
  for_each_index(buckets.size(),
                 [&](std::size_t i) { failures[i] = apply_bucket(buckets[i], tensors, each[i]); });
  for (const auto& of_one : each) touched.insert(touched.end(), of_one.begin(), of_one.end());
  std::ranges::sort(touched);
  touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
  const auto failed = std::ranges::find_if(failures, [](const auto& f) { return f.has_value(); });
  return failed == failures.end() ? std::nullopt : *failed;
}

std::size_t count_frames(const payload& bucket, const tensor_views& tensors) {
  std::size_t count = 0;
  for_each_frame(bucket, tensors, [&](const auto&) { return ++count != 0; });
  return count;
}

}  // namespace lockstep
