// Decides how tests of receivers run again on weights in an emulated device's memory.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "messages/layout.hpp"
#include "tests/support/emulated_device.hpp"
#include "weights/device_weights.hpp"

namespace lockstep {

using kernels::cuda::emulated_device;

/// The environment asks that receivers' weights be in a device's memory.
inline bool on_device() {
  const char* const wish = std::getenv("LOCKSTEP_TEST_DEVICE");
  return wish != nullptr && std::string_view(wish) == "emulated";
}

/// A stream of this device, as an engine has one.
inline kernels::cuda::stream engine_stream(emulated_device& device) {
  const int before = device.enter();
  const auto made = device.make_stream();
  device.leave(before);
  return made;
}

/// Tensors that are there, as memory of this device. They must outlive it.
inline device_weights lent_to(std::shared_ptr<emulated_device> device,
                              const std::vector<std::span<std::byte>>& memory) {
  device_weights out;
  for (const auto& tensor : memory) {
    if (!tensor.empty()) device->lend(tensor.data(), tensor.size());
    out.tensors.push_back(tensor.empty() ? nullptr : tensor.data());
  }
  out.stream = engine_stream(*device);
  out.device = std::move(device);
  return out;
}

/// Zeroed tensors of this device's own.
inline device_weights made_on(std::shared_ptr<emulated_device> device, const layout& shape) {
  device_weights out;
  device->enter();
  for (std::size_t i = 0; i < shape.count(); ++i) {
    const auto bytes = static_cast<std::size_t>(shape.bytes(i));
    out.tensors.push_back(bytes == 0 ? nullptr
                                     : static_cast<std::byte*>(device->allocate(bytes, nullptr)));
    if (bytes != 0) std::memset(out.tensors.back(), 0, bytes);
  }
  device->leave(0);
  out.stream = engine_stream(*device);
  out.device = std::move(device);
  return out;
}

/// What is said of a receiver's memory, or, if tests run on a device, the same there.
template <class Options>
Options placed(Options options, const layout& shape) {
  if (!on_device() || options.device.device) return options;
  auto device = std::make_shared<emulated_device>();
  options.device = options.memory.empty() ? made_on(std::move(device), shape)
                                          : lent_to(std::move(device), options.memory);
  options.memory.clear();
  return options;
}

}  // namespace lockstep
