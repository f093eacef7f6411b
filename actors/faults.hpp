// Decides which failures are provoked on purpose: at which receiver, in which sync. For drills and
// tests; without a plan nothing here runs.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "messages/ids.hpp"

namespace lockstep {

enum class fault_kind : std::uint8_t {
  stage_fail,     ///< refuses to stage the delta
  apply_fail,     ///< fails half-way through writing it, and again at every redo
  crash,          ///< its actor ends half-way through the write and is restarted over torn bytes
  corrupt_frame,  ///< a bit of the first bucket flips on its way
  no_reply,       ///< votes and acknowledgements are lost
  false_ok,       ///< says ok without having written a byte
};

/// "stage-fail", …, as on the command line.
std::string_view to_string(fault_kind kind) noexcept;

struct fault {
  fault_kind kind = fault_kind::stage_fail;
  std::uint64_t label = 0;  ///< the trainer's number of the sync to spoil
  receiver_id receiver = 0;
};

/// Reads `KIND@VERSION:RECEIVER`; nothing if it is not of that form.
std::optional<fault> parse_fault(std::string_view text);
/// The same form back.
std::string to_string(const fault& f);

/// What a receiver is sent: what failures on purpose are keyed by.
struct transfer_ref {
  txn_ref txn;
  std::uint64_t label = 0;  ///< the trainer's number of what it leads to
  bool full = false;        ///< all weights, written as they arrive
};

/// Where failures on purpose come from. Asked on threads of the runtime.
class fault_source {
 public:
  virtual ~fault_source() = default;
  /// True if a fault of `kind` strikes this transfer at this receiver: asked once for each delta
  /// that is staged or written, and for each bucket of a full transfer.
  virtual bool strikes(fault_kind kind, const transfer_ref& what, receiver_id receiver) = 0;
  /// The part of the frames that a write which fails or crashes half-way has written: from 0 to 1.
  virtual double share_written() { return 0.5; }
};

/// Faults still to come. Each strikes the first delta of its label and stays with that transaction:
/// a later attempt of the same label, or a full transfer, goes through.
///
/// Thread-safe.
class fault_plan final : public fault_source {
 public:
  explicit fault_plan(std::vector<fault> faults);

  bool strikes(fault_kind kind, const transfer_ref& what, receiver_id receiver) override;

  /// Faults that have not struck.
  std::vector<fault> left() const;

 private:
  struct planned {
    fault what;
    std::optional<txn_ref> struck;
  };
  mutable std::mutex mutex_;
  std::vector<planned> planned_;
};

}  // namespace lockstep
