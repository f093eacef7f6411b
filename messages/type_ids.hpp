// Decides the numbers under which messages travel between nodes. The one file of this folder that
// includes CAF; nothing outside actors/ and transports includes it.
#pragma once

#include <caf/error.hpp>
#include <caf/sec.hpp>
#include <caf/type_id.hpp>

#include "messages/from_receiver.hpp"
#include "messages/payload.hpp"
#include "messages/to_receiver.hpp"

namespace lockstep {

/// Sends a payload as its length and its bytes; shows it, in traces, as its length.
template <class Inspector>
std::enable_if_t<Inspector::reads_state, typename Inspector::result_type> inspect(Inspector& f,
                                                                                  payload& x) {
  std::uint64_t count = x.size();
  if constexpr (std::is_void_v<typename Inspector::result_type>) {
    f(count);
  } else {
    if (auto err = f(count)) return err;
    if (count == 0) return caf::none;
    return f.apply_raw(x.size(), const_cast<std::byte*>(x.data()));
  }
}

/// Checks the length before it allocates: CAF's own sequences do not (0.17.6).
template <class Inspector>
std::enable_if_t<Inspector::writes_state, caf::error> inspect(Inspector& f, payload& x) {
  std::uint64_t count = 0;
  if (auto err = f(count)) return err;
  if (count > payload_bytes_max) return caf::sec::invalid_argument;
  std::vector<std::byte> bytes(static_cast<std::size_t>(count));
  if (count != 0)
    if (auto err = f.apply_raw(bytes.size(), bytes.data())) return err;
  x = payload(std::move(bytes));
  return caf::none;
}

}  // namespace lockstep

CAF_BEGIN_TYPE_ID_BLOCK(lockstep, caf::first_custom_type_id)
CAF_ADD_TYPE_ID(lockstep, (lockstep::attach_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::full_begin_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::prepare_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::bucket_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::commit_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::abort_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::redo_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::ping_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::hello_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::reply_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::credit_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::pong_msg))
CAF_ADD_TYPE_ID(lockstep, (lockstep::goodbye_msg))
CAF_END_TYPE_ID_BLOCK(lockstep)
