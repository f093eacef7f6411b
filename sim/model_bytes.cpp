#include "sim/model_bytes.hpp"

#include <cstring>

namespace lockstep::sim {

void copy_into(weight_buffer& w, const bytes& from) {
  std::size_t at = 0;
  for (std::size_t i = 0; i < w.shape().count(); ++i) {
    const auto tensor = w.tensor(i);
    if (!tensor.empty()) std::memcpy(tensor.data(), from.data() + at, tensor.size());
    at += tensor.size();
  }
}

bytes bytes_of(const weight_buffer& w) {
  bytes out;
  out.reserve(static_cast<std::size_t>(w.shape().total_bytes()));
  for (std::size_t i = 0; i < w.shape().count(); ++i) {
    const auto tensor = w.tensor(i);
    out.insert(out.end(), tensor.begin(), tensor.end());
  }
  return out;
}

bytes bytes_of(const tensor_views& views) {
  bytes out;
  for (const auto& view : views)
    out.insert(out.end(), view.bytes.data, view.bytes.data + view.bytes.size);
  return out;
}

bool holds(const weight_buffer& w, const bytes& what) {
  std::size_t at = 0;
  for (std::size_t i = 0; i < w.shape().count(); ++i) {
    const auto tensor = w.tensor(i);
    if (!tensor.empty() && std::memcmp(tensor.data(), what.data() + at, tensor.size()) != 0)
      return false;
    at += tensor.size();
  }
  return true;
}

bool holds(const tensor_views& views, const bytes& what) {
  std::size_t at = 0;
  for (const auto& view : views) {
    if (view.bytes.size != 0 &&
        std::memcmp(view.bytes.data, what.data() + at, view.bytes.size) != 0)
      return false;
    at += view.bytes.size;
  }
  return true;
}

bytes laid_over(const layout& shape, const bytes& under, const tensor_views& part) {
  auto out = under;
  std::size_t at = 0;
  for (std::size_t i = 0; i < shape.count(); at += static_cast<std::size_t>(shape.bytes(i++)))
    if (const auto& from = part[i].bytes; from.size != 0)
      std::memcpy(out.data() + at, from.data, from.size);
  return out;
}

}  // namespace lockstep::sim
