// What whoever works on a device relies on beside its kernels: memory, copies, order, refusals.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/emulated.hpp"
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
    const std::uint64_t size = device->room_bytes() - 95;
    std::byte* const sent = device->take_room();
    std::byte* const got = device->take_room();
    for (std::uint64_t i = 0; i < size; ++i) sent[i] = static_cast<std::byte>(i * 7);
    void* const memory = device->allocate(size, on);
    device->require_here(memory, size);
    device->require_here(static_cast<char*>(memory) + 1, size - 1);
    device->to_device(memory, sent, size, on);
    device->to_host(got, memory, size, on);
    device->set_mark(mark, on);
    wait_for(*device, mark);
    CHECK(std::equal(sent, sent + size, got));
    device->give_room(sent);
    CHECK(device->take_room() != got);
    device->give_room(got);
    device->give_room(nullptr);
    device->release(memory, on);
    device->release(nullptr, on);
    device->end_mark(mark);
    device->end_stream(on);
    device->leave(before);
  }
}

TEST_CASE("what one stream has made another one sees, behind a mark that has passed") {
  for (const auto& device : all_devices()) {
    const int before = device->enter();
    const stream first = device->make_stream(), second = device->make_stream();
    CHECK(first != second);
    const stream_mark mark = device->make_mark(), other = device->make_mark();
    auto* const key = static_cast<device_key*>(device->allocate(sizeof(device_key), first));
    std::byte* const got = device->take_room();
    const auto size =
        static_cast<std::size_t>(std::min<std::uint64_t>(device->room_bytes(), sizeof(device_key)));
    for (const std::uint64_t seed : {1u, 2u, 3u}) {
      device->kernels().expand_key(seed, key, first);
      device->set_mark(mark, first);
      wait_for(*device, mark);
      device->to_host(got, key, size, second);
      device->set_mark(other, second);
      wait_for(*device, other);
      device_key wanted{};
      emulated_kernels().expand_key(seed, &wanted, nullptr);
      CHECK(std::memcmp(got, &wanted, size) == 0);
    }
    device->give_room(got);
    device->release(key, first);
    device->trim();
    device->end_mark(mark);
    device->end_mark(other);
    device->end_stream(first);
    device->end_stream(second);
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
    std::byte* const room = device->take_room();
    CHECK_NOTHROW(device->to_device(memory, room, 64, on));
    device->release(memory, on);
    const stream_mark mark = device->make_mark();
    device->set_mark(mark, on);
    wait_for(*device, mark);
    device->give_room(room);
    device->end_mark(mark);
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
  std::byte* const room = device.take_room();
  CHECK_THROWS_AS(device.to_device(memory, room, 8, nullptr), device_error);
  CHECK_NOTHROW(device.to_device(memory, room, 8, nullptr));
  std::byte elsewhere[8] = {};
  CHECK_THROWS_AS(device.to_device(memory, elsewhere, 8, nullptr), device_error);
  CHECK_THROWS_AS(device.to_host(room + device.room_bytes() - 7, memory, 8, nullptr), device_error);
  device.hang(true);
  CHECK_FALSE(device.passed(nullptr));
  device.release(memory, nullptr);
  CHECK(device.bytes_held() == 0);
  CHECK(device.bytes_held_max() == 9);
  device.leave(0);
}
