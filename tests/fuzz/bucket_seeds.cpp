// Decides the seeds of `frame`, `coded` and `bucket`.
#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "fuzz/frame_tensors.hpp"
#include "fuzz/seed_files.hpp"
#include "kernels/coded.hpp"

namespace lockstep::fuzz {

namespace fs = std::filesystem;

namespace {

/// Frames that change `tensor` at `elements`.
void add_delta(bytes& out, const std::vector<bytes>& base, std::uint32_t tensor,
               const std::vector<std::size_t>& elements) {
  const auto [size, unit] = tensor_shapes[tensor];
  auto target = base[tensor];
  for (const auto e : elements) target[e * unit] ^= std::byte{0x5a};
  for (std::size_t at = 0; at < size; at += kernels::frame_span_bytes_max)
    kernels::encode_delta(tensor, {{base[tensor].data(), size}, unit},
                          {{target.data(), size}, unit}, at, out);
}

void frame_seeds(const fs::path& frames, const fs::path& buckets) {
  const auto base = make_tensors();
  const std::vector<
      std::pair<std::string, std::vector<std::pair<std::uint32_t, std::vector<std::size_t>>>>>
      all{{"unit-2", {{0, {2, 5}}}},
          {"unit-1-with-escape", {{1, {0, 1, 65'537, 70'000}}}},
          {"unit-4", {{2, {0, 15}}}},
          {"unit-8", {{3, {1, 2, 9}}}},
          {"first-range", {{4, {0, 131'071, 262'143}}}},
          {"last-range", {{4, {262'144, 262'153}}}},
          {"several", {{0, {1}}, {1, {70'000}}, {2, {3}}, {3, {0}}, {4, {5, 262'150}}}}};
  for (const auto& [name, deltas] : all) {
    bytes out;
    for (const auto& [tensor, elements] : deltas) add_delta(out, base, tensor, elements);
    put(frames / name, text_of(out));
    out.push_back(std::byte{2});
    put(buckets / name, text_of(out));
  }
  bytes full;
  for (std::uint32_t t = 0; t < 4; t += 2)
    kernels::encode_full(t, {{base[t].data(), base[t].size()}, tensor_shapes[t].unit}, 0, full);
  put(frames / "full", text_of(full));
  full.push_back(std::byte{1});
  put(buckets / "full", text_of(full));
}

/// Coded frames of every unit and order, with and without exceptions and value bits.
void coded_seeds(const fs::path& dir) {
  const auto base = make_coded_tensors();
  const auto views = coded_views_of(base);
  kernels::delta_encoder encoder;
  for (std::uint32_t t = 0; t < base.size(); ++t) {
    const auto unit = coded_shapes[t].unit;
    for (const unsigned every : {200u, 20u})
      for (const unsigned add : {1u, 3u, 0x25u}) {
        auto target = base[t];
        for (std::size_t i = 0; i < target.size() / unit; i += 1 + (i * 7 + add) % every)
          target[i * unit] =
              static_cast<std::byte>(std::to_integer<unsigned>(target[i * unit]) + add);
        for (unsigned order = 0; order < (unit == 1 ? 3u : 2u); ++order) {
          auto model = kernels::plan_classes(views[t], {{target.data(), target.size()}, unit});
          model.order = static_cast<kernels::step_order>(order);
          bytes out;
          encoder.encode(t, views[t], {{target.data(), target.size()}, unit}, 0, model,
                         kernels::encoding_choice::coded, out);
          put(dir / ("tensor-" + std::to_string(t) + "-every-" + std::to_string(every) + "-add-" +
                     std::to_string(add) + "-order-" + std::to_string(order)),
              text_of(out));
        }
      }
  }
}

/// A frame like `whole` with another payload.
std::string with_payload(const std::string& whole, const std::string& payload) {
  auto out = whole.substr(0, kernels::frame_header_bytes) + payload;
  const auto bytes = static_cast<std::uint32_t>(payload.size());
  std::memcpy(out.data() + kernels::field::payload_bytes, &bytes, sizeof bytes);
  const auto checksum =
      kernels::frame_checksum({reinterpret_cast<const std::byte*>(out.data()), out.size()});
  std::memcpy(out.data() + kernels::field::checksum, &checksum, sizeof checksum);
  return out;
}

/// With as many classes as there are, near each other and far.
void rare_coded_seeds(const fs::path& dir) {
  const auto base = make_coded_tensors();
  const auto views = coded_views_of(base);
  const std::vector<std::pair<std::string, std::vector<std::uint8_t>>> models{
      {"near", {56, 58, 60}},
      {"near-by-pairs", {57, 58, 59, 60}},
      {"far", {1, 57, 255}},
      {"far-of-two", {56, 100}},
      {"all", {50, 52, 54, 56, 57, 58, 59}}};
  kernels::delta_encoder encoder;
  for (std::uint32_t t = 0; t < 4; ++t)
    for (const std::size_t every : {std::size_t{1}, std::size_t{7}}) {
      const auto unit = coded_shapes[t].unit;
      auto target = base[t];
      for (std::size_t i = 0; i < target.size() / unit; i += every)
        target[i * unit] = static_cast<std::byte>(std::to_integer<unsigned>(target[i * unit]) + 1);
      for (const auto& [name, thresholds] : models) {
        if (every == 1 && name != "near") continue;
        kernels::class_model model;
        model.classes = static_cast<std::uint8_t>(thresholds.size() + 1);
        std::copy(thresholds.begin(), thresholds.end(), model.thresholds.begin());
        bytes out;
        encoder.encode(t, views[t], {{target.data(), target.size()}, unit}, 0, model,
                       kernels::encoding_choice::coded, out);
        put(dir / (name + "-" + std::to_string(t) + "-every-" + std::to_string(every)),
            text_of(out));
        if (t != 1 || name != "far") continue;
        // One class; nothing of it, and exceptions whose number does not end.
        put(dir / "table-cut-off", with_payload(text_of(out), std::string(1, '\0')));
        put(dir / "table-without-end",
            with_payload(text_of(out), std::string(1, '\0') + "\x40\x80\x80\x80"));
      }
    }
}

/// Coded frames: in one bucket, in two, and more than may be held when they are staged.
void bucket_seeds(const fs::path& dir) {
  const std::uint32_t t = 1;
  const auto base = make_tensors()[t];
  const auto shape = tensor_shapes[t];
  const auto coded = [&](std::size_t every) {
    auto target = base;
    for (std::size_t i = 0; i < shape.size / shape.unit; i += every)
      target[i * shape.unit] =
          static_cast<std::byte>(std::to_integer<unsigned>(target[i * shape.unit]) + 1);
    const kernels::tensor_view from{{base.data(), shape.size}, shape.unit};
    const kernels::tensor_view to{{target.data(), shape.size}, shape.unit};
    bytes out;
    kernels::delta_encoder().encode(t, from, to, 0, kernels::plan_classes(from, to),
                                    kernels::encoding_choice::coded, out);
    return text_of(out);
  };
  put(dir / "coded", coded(100) + '\2');
  put(dir / "coded-twice", coded(100) + coded(200) + '\1');
  put(dir / "coded-and-larger-than-taken", coded(20) + '\1');
}

}  // namespace

void put_bucket_seeds(const fs::path& dir) {
  frame_seeds(dir / "frame", dir / "bucket");
  coded_seeds(dir / "coded");
  rare_coded_seeds(dir / "coded");
  bucket_seeds(dir / "bucket");
}

}  // namespace lockstep::fuzz
