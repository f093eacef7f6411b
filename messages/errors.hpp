// Decides every reason for which something can fail, and who can cause it.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace lockstep {

/// Why something failed. The comment says who can cause it: peer (the other side of a message),
/// operator (files, settings, hardware), engine (the embedding process) or bug.
enum class errc : std::uint8_t {
  none = 0,
  // What arrived is not what was promised (peer).
  bad_checksum,  ///< peer: bytes do not match the hash announced for them
  bad_frame,     ///< peer: a frame is malformed, out of bounds or of an unknown encoding
  bad_manifest,  ///< peer: sizes or counts are inconsistent or above the limits
  wrong_layout,  ///< peer, operator: tensors differ in name, dtype, shape or order
  false_ack,     ///< peer: said ok, but could not prove the bytes
  // What is held is not what is needed (peer, operator).
  wrong_base,    ///< the bytes held are not the base of the delta
  wrong_target,  ///< applying would not give, or did not give, the announced target
  not_staged,    ///< told to commit what was never staged
  not_serving,   ///< asked to take a delta while empty, torn or being reseeded
  // Local trouble.
  no_memory,      ///< operator: over the staging limit, or the allocator said no
  apply_failed,   ///< engine: the write, or the engine's hook, failed
  hook_failed,    ///< engine: a pause or resume hook failed
  encode_failed,  ///< bug: the encoded delta does not lead to the trainer's bytes
  // The life of a participant.
  timeout,        ///< peer, operator: no answer within the deadline
  dead,           ///< peer, operator: the actor or its process ended
  restarted,      ///< peer, operator: a new incarnation took its place
  behind,         ///< peer: holds an older version than the snapshot
  torn,           ///< peer: a write was interrupted; bytes are a mix
  lease_expired,  ///< peer, operator: the trainer was not heard of within the lease
  gave_up,   ///< operator: the retry limit was reached; stays out until it announces itself anew
  detached,  ///< engine: left on purpose
  // A whole sync.
  too_few_members,     ///< fewer participants left than `min_members`
  correlated_failure,  ///< at least half refused for the same reason: the delta is suspect
  fenced,              ///< a newer run of the trainer exists; this one must stop
  busy,                ///< engine: a sync is already in flight
  shut_down,           ///< engine: the runtime is ending
  // Input (operator).
  bad_input,    ///< a file is malformed or does not fit
  unwritable,   ///< an output cannot be written
  bad_setting,  ///< a setting is unknown, of the wrong type or out of range
  unreachable,  ///< an address does not answer
  // Who speaks on a connection (peer, operator).
  untrusted,      ///< not proven to be who it must be: certificate, role or shared key
  wrong_version,  ///< speaks another version of the protocol
  wrong_cluster,  ///< belongs to another cluster
  last_ = wrong_cluster
};

/// The name of a reason as it stands in reports and logs, e.g. "bad_checksum"; "unknown" for a
/// value that is no enumerator (such a value can arrive from a peer).
std::string_view to_string(errc code) noexcept;

/// Thrown by the embedding interface and by file readers; never crosses an actor boundary.
class error : public std::runtime_error {
 public:
  error(errc code, const std::string& what) : std::runtime_error(what), code_(code) {}
  errc code() const noexcept { return code_; }

 private:
  errc code_;
};

}  // namespace lockstep
