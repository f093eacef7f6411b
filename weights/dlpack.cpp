#include "weights/dlpack.hpp"

#include <string>

#include "messages/errors.hpp"

namespace lockstep {

namespace {

// DLPack's numbers.
enum device_kind : std::int32_t { cpu = 1, cuda = 2, cuda_host = 3, cuda_managed = 13 };
enum type_code : std::uint8_t {
  integer = 0,
  unsigned_integer = 1,
  floating = 2,
  bfloat = 4,
  complex_number = 5,
  boolean = 6,
  f8_e4m3 = 10,
  f8_e5m2 = 12,
  f8_e8m0 = 14,
  f6_e2m3 = 15,
  f6_e3m2 = 16,
  f4 = 17
};

[[noreturn]] void refuse(const tensor_spec& wanted, const std::string& why) {
  throw error(errc::wrong_layout, "tensor '" + wanted.name + "': " + why);
}

/// The code of a type whose width is right.
type_code code_of(dtype type) {
  switch (type) {
    case dtype::boolean:
      return boolean;
    case dtype::f4:
      return f4;
    case dtype::f6_e2m3:
      return f6_e2m3;
    case dtype::f6_e3m2:
      return f6_e3m2;
    case dtype::f8_e5m2:
      return f8_e5m2;
    case dtype::f8_e4m3:
      return f8_e4m3;
    case dtype::f8_e8m0:
      return f8_e8m0;
    case dtype::i8:
    case dtype::i16:
    case dtype::i32:
    case dtype::i64:
      return integer;
    case dtype::f16:
    case dtype::f32:
    case dtype::f64:
      return floating;
    case dtype::bf16:
      return bfloat;
    case dtype::c64:
      return complex_number;
    case dtype::u8:
    case dtype::u16:
    case dtype::u32:
    case dtype::u64:
      break;
  }
  return unsigned_integer;
}

bool is_type(const dlpack_fields& t, dtype type) {
  if (t.lanes != 1 || t.bits != bits_of(type)) return false;
  if (t.code == code_of(type)) return true;
  const bool nameless = type == dtype::f8_e4m3 || type == dtype::f8_e5m2 ||
                        type == dtype::f8_e8m0 || type == dtype::boolean;
  return nameless && (t.code == integer || t.code == unsigned_integer);
}

/// Whether elements lie one after the other, the last dimension's closest.
bool is_contiguous(const dlpack_fields& t, const tensor_spec& wanted) {
  if (t.strides == nullptr) return true;
  std::int64_t step = 1;
  for (auto i = wanted.shape.size(); i-- > 0;) {
    // Of one row there is no step to the next; of none there is nothing.
    if (t.shape[i] == 0) return true;
    if (t.shape[i] != 1 && t.strides[i] != step) return false;
    step *= t.shape[i];
  }
  return true;
}

}  // namespace

lent_tensor lent_by(const dlpack_fields& t, const tensor_spec& wanted) {
  const auto bytes = bytes_of(wanted);
  if (!bytes) refuse(wanted, "it has no size");
  if (!is_type(t, wanted.type))
    refuse(wanted, "its elements are not " + std::string(to_string(wanted.type)));
  bool same = t.ndim >= 0 && static_cast<std::size_t>(t.ndim) == wanted.shape.size() &&
              (t.ndim == 0 || t.shape != nullptr);
  for (std::size_t i = 0; same && i < wanted.shape.size(); ++i)
    same = t.shape[i] >= 0 && static_cast<std::uint64_t>(t.shape[i]) == wanted.shape[i];
  if (!same) refuse(wanted, "it has another shape");
  if (*bytes != 0 && !is_contiguous(t, wanted)) refuse(wanted, "its elements do not lie in a row");
  lent_tensor out;
  out.bytes = *bytes;
  out.on_device = t.device_type == cuda || t.device_type == cuda_managed;
  out.ordinal = out.on_device ? t.device_id : 0;
  if (!out.on_device && t.device_type != cpu && t.device_type != cuda_host)
    refuse(wanted,
           "it is on no CUDA device and not on the host, but on a device of DLPack's kind " +
               std::to_string(t.device_type));
  if (*bytes == 0) return out;
  if (t.data == nullptr) refuse(wanted, "it has no memory");
  out.data = static_cast<std::byte*>(t.data) + t.byte_offset;
  return out;
}

}  // namespace lockstep
