// Tensors in DLPack's form: those that can be lent, and what is said of all others.
#include "weights/dlpack.hpp"

#include <dlpack/dlpack.h>

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "messages/errors.hpp"

using namespace lockstep;

namespace {

struct made {
  std::vector<std::int64_t> shape, strides;
  DLTensor t{};

  made(std::vector<std::int64_t> extents, std::uint8_t code, std::uint8_t bits, void* data)
      : shape(std::move(extents)) {
    t.data = data;
    t.device = {kDLCPU, 0};
    t.ndim = int(shape.size());
    t.dtype = {code, bits, 1};
    t.shape = shape.data();
  }
  made(const made&) = delete;
};

std::string refusal(const DLTensor& t, const tensor_spec& wanted) {
  try {
    lent_by(t, wanted);
    return {};
  } catch (const error& e) {
    CHECK(e.code() == errc::wrong_layout);
    return e.what();
  }
}

}  // namespace

TEST_CASE("a contiguous tensor of DLPack's is lent where it lies") {
  std::byte memory[200];
  const tensor_spec wanted{"w", dtype::bf16, {3, 1, 5}};
  made m({3, 1, 5}, kDLBfloat, 16, memory);
  auto lent = lent_by(m.t, wanted);
  CHECK(lent.data == memory);
  CHECK(lent.bytes == 30);
  CHECK_FALSE(lent.on_device);
  m.strides = {5, 99, 1};  // of one row there is no step to the next
  m.t.strides = m.strides.data();
  m.t.byte_offset = 6;
  m.t.device = {kDLCUDA, 3};
  lent = lent_by(m.t, wanted);
  CHECK(lent.data == memory + 6);
  CHECK(lent.on_device);
  CHECK(lent.ordinal == 3);
  m.t.device = {kDLCUDAHost, 3};
  CHECK_FALSE(lent_by(m.t, wanted).on_device);
  m.t.device = {kDLCUDAManaged, 1};
  CHECK(lent_by(m.t, wanted).on_device);
  DLManagedTensor managed{};
  managed.dl_tensor = m.t;
  CHECK(lent_by(managed, wanted).data == memory + 6);
}

TEST_CASE("scalars and tensors without elements are lent") {
  float one = 1;
  const made scalar({}, kDLFloat, 32, &one);
  CHECK(lent_by(scalar.t, {"s", dtype::f32, {}}).bytes == 4);
  const made none({4, 0}, kDLFloat, 32, nullptr);
  CHECK(lent_by(none.t, {"n", dtype::f32, {4, 0}}).bytes == 0);
}

TEST_CASE("floats of 8 bits may be called integers, wider ones may not") {
  std::byte memory[8];
  const made m({8}, kDLUInt, 8, memory);
  CHECK(lent_by(m.t, {"w", dtype::f8_e4m3, {8}}).bytes == 8);
  CHECK(lent_by(m.t, {"w", dtype::boolean, {8}}).bytes == 8);
  CHECK(refusal(m.t, {"w", dtype::i8, {8}}).find("not I8") != std::string::npos);
  const made wide({4}, kDLUInt, 16, memory);
  CHECK(refusal(wide.t, {"w", dtype::bf16, {4}}).find("not BF16") != std::string::npos);
}

TEST_CASE("a tensor of DLPack's that cannot be lent is refused by name") {
  std::byte memory[64];
  const tensor_spec wanted{"w", dtype::f16, {2, 4}};
  const auto says = [&](auto change, const char* what) {
    made m({2, 4}, kDLFloat, 16, memory);
    change(m);
    const auto why = refusal(m.t, wanted);
    INFO(why);
    CHECK(why.find("tensor 'w'") == 0);
    CHECK(why.find(what) != std::string::npos);
  };
  says([](made& m) { m.t.dtype.code = kDLBfloat; }, "not F16");
  says([](made& m) { m.t.dtype.bits = 32; }, "not F16");
  says([](made& m) { m.t.dtype.lanes = 2; }, "not F16");
  says([](made& m) { m.shape[1] = 3; }, "another shape");
  says([](made& m) { m.shape[0] = -2; }, "another shape");
  says([](made& m) { m.t.ndim = 1; }, "another shape");
  says([](made& m) { m.t.ndim = -1; }, "another shape");
  says([](made& m) { m.t.shape = nullptr; }, "another shape");
  says([](made& m) { m.t.data = nullptr; }, "no memory");
  says([](made& m) { m.t.device.device_type = kDLROCM; }, "kind 10");
  const auto strided = [&](std::vector<std::int64_t> strides) {
    says(
        [&](made& m) {
          m.strides = strides;
          m.t.strides = m.strides.data();
        },
        "in a row");
  };
  strided({1, 2});   // transposed
  strided({8, 1});   // rows of a wider one
  strided({4, 0});   // one element, repeated
  strided({-4, 1});  // upside down
}
