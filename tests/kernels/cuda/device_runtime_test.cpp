// What whoever works on a device relies on beside its kernels: memory, copies, order, refusals.
#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cuda/cuda_device.hpp"
#include "tests/kernels/cuda/beds.hpp"
#include "tests/support/emulated_device.hpp"

using namespace lockstep::kernels::cuda;

namespace {

/// Those there are, by the beds that are asked for.
std::vector<std::shared_ptr<device_runtime>> all_devices() {
  std::vector<std::shared_ptr<device_runtime>> out;
  bool emulated = false, cuda = false;
  for (const bed& on : all_beds()) (on.name == "CUDA" ? cuda : emulated) = true;
  if (emulated) out.push_back(std::make_shared<emulated_device>());
  if (cuda) out.push_back(open_cuda_device(0));
  return out;
}

void wait_for(device_runtime& device, stream_mark mark) {
  while (!device.passed(mark)) std::this_thread::yield();
}

}  // namespace

TEST_CASE("bytes that are copied to a device come back, in the order of its stream") {
  for (const auto& device : all_devices()) {
    const int before = device->enter();
    const stream on = device->make_stream();
    const stream_mark mark = device->make_mark();
    std::vector<unsigned char> sent(100'001), got(sent.size());
    for (std::size_t i = 0; i < sent.size(); ++i) sent[i] = static_cast<unsigned char>(i * 7);
    const auto wanted = sent;
    void* const memory = device->allocate(sent.size(), on);
    device->require_here(memory, sent.size());
    device->require_here(static_cast<char*>(memory) + 1, sent.size() - 1);
    device->to_device(memory, sent.data(), sent.size(), on);
    std::fill(sent.begin(), sent.end(), static_cast<unsigned char>(0));  // it is the caller's again
    device->set_mark(mark, on);
    wait_for(*device, mark);
    device->to_host(got.data(), memory, got.size(), on);
    device->set_mark(mark, on);
    wait_for(*device, mark);
    CHECK((got == wanted));
    device->release(memory, on);
    device->release(nullptr, on);
    device->end_mark(mark);
    device->end_stream(on);
    device->leave(before);
  }
}

TEST_CASE("memory of the host is not a device's, and too much is not there") {
  for (const auto& device : all_devices()) {
    const int before = device->enter();
    std::vector<char> here(64);
    CHECK_THROWS_AS(device->require_here(here.data(), here.size()), device_error);
    CHECK_THROWS_AS(device->require_here(nullptr, 1), device_error);
    CHECK_NOTHROW(device->require_here(nullptr, 0));
    const stream on = device->make_stream();
    CHECK_THROWS_AS(device->allocate(std::uint64_t{1} << 60, on), std::bad_alloc);
    // Nothing of that sticks.
    void* const memory = device->allocate(64, on);
    CHECK_NOTHROW(device->to_device(memory, here.data(), here.size(), on));
    device->release(memory, on);
    device->end_stream(on);
    device->leave(before);
  }
}

TEST_CASE("a CUDA device that is not there is refused with the reason") {
  for (const int ordinal : {-1, 4711}) {
    try {
      open_cuda_device(ordinal);
      FAIL("opened");
    } catch (const device_error& e) {
      const std::string what = e.what();
      INFO(what);
      CHECK((what.find("without CUDA") != what.npos || what.find("no CUDA device") != what.npos));
    }
  }
}

TEST_CASE("an emulated device fails as it is told, once") {
  emulated_device device;
  std::vector<char> here(8);
  // While it is not current nothing asks it anything: not even questions are free of CUDA's rules.
  CHECK_THROWS_AS(device.allocate(8, nullptr), device_error);
  CHECK_THROWS_AS(device.make_stream(), device_error);
  CHECK_THROWS_AS(device.passed(nullptr), device_error);
  CHECK_THROWS_AS(device.require_here(nullptr, 0), device_error);
  device.enter();
  CHECK_THROWS_AS(device.enter(), device_error);
  void* const memory = device.allocate(8, nullptr);
  CHECK(device.bytes_held() == 8);
  CHECK_THROWS_AS(device.require_here(memory, 9), device_error);
  device.fail_allocation(2);
  device.release(device.allocate(1, nullptr), nullptr);
  CHECK_THROWS_AS(device.allocate(1, nullptr), std::bad_alloc);
  device.release(device.allocate(1, nullptr), nullptr);
  device.fail_copy(1);
  CHECK_THROWS_AS(device.to_device(memory, here.data(), 8, nullptr), device_error);
  CHECK_NOTHROW(device.to_device(memory, here.data(), 8, nullptr));
  device.hang(true);
  CHECK_FALSE(device.passed(nullptr));
  device.release(memory, nullptr);
  CHECK(device.bytes_held() == 0);
  CHECK(device.bytes_held_max() == 9);
  device.leave(0);
}
