// Decides how a checkpoint directory on a host is brought from one version to the next so that a
// kill at any point loses nothing.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "weights/file_lock.hpp"
#include "weights/host_record.hpp"
#include "weights/redo_log.hpp"

namespace lockstep {

/// Throws `error{unwritable}` that names it if something else than a directory is the
/// `.weight_sync` of the checkpoint directory `dir`, or a directory stands where a file of it is to
/// be.
void require_workable(const std::filesystem::path& dir);
/// Throws `error{unwritable}` unless a whole checkpoint of the files `names` can be moved into the
/// directory `dir`: where one of them is to be, or an index, no directory may stand.
void require_room_for(const std::filesystem::path& dir, const std::vector<std::string>& names);

/// A checkpoint directory, locked for as long as this lives: `.weight_sync/lock`, held by whoever
/// reads the format, on this host. Made if it is not there. Not thread-safe.
///
/// A change is first made ready in `.weight_sync`, then declared by one durable record, then made,
/// then the marker is written, then the record removed. The marker is absent while files change.
class host_checkpoint {
 public:
  /// Waits for the lock, then ends what an earlier process began and declared, and clears away what
  /// it did not. Throws `error{timeout}` if others hold the lock for longer than `patience`,
  /// `error{shut_down}` if `stopping` (may be empty) says so before, `error{unwritable}`,
  /// `error{bad_input}`. `stopping` is asked later as well, while files are read or copied: what
  /// has been declared is carried out first.
  host_checkpoint(std::filesystem::path dir, std::chrono::milliseconds patience,
                  const std::function<bool()>& stopping = {});

  const std::filesystem::path& dir() const noexcept { return dir_; }
  /// What the marker says; nothing if there is none.
  std::optional<std::uint64_t> version() const noexcept { return version_; }
  /// Our own note of that version, if it is of that version; without a marker, of the last one.
  const std::optional<version_record>& record() const noexcept { return record_; }
  /// Why a declared change can neither be ended nor undone: its log is damaged, or others have
  /// put files of theirs there since. Then only a whole checkpoint helps. Else empty.
  const std::string& torn() const noexcept { return torn_; }
  /// Why the marker cannot be read: it is damaged, or somebody writes it in another way. Else
  /// empty.
  const std::string& unreadable() const noexcept { return unreadable_; }
  /// Whether the last process here was interrupted, and its work ended now.
  bool recovered() const noexcept { return recovered_; }

  /// Throws the `try_again_error` among `error{unwritable}` if the lock was removed or replaced:
  /// whoever holds the one that stands there may clear away what is made ready here, or make
  /// something else ready under the same names. Asked before all that is durable.
  void require_alone() const { lock_->require_in_place(); }

  /// Where `change_to`'s log and `replace_by`'s files are to be made.
  std::filesystem::path log_file() const { return sync_dir_ / "redo.log"; }
  std::filesystem::path incoming() const { return sync_dir_ / "incoming"; }
  /// Makes `incoming()` anew, empty.
  void clear_incoming();

  /// Gives `name` a file of its own, if it is a link or has several names: writing in place must
  /// not reach what others read. Its time stays.
  void make_private(const std::string& name);

  /// Makes the changes of `log_file()` in `files`, names in this directory. Durable on return.
  /// Returns how many bytes were rewritten. Throws the `try_again_error` among `error{unwritable}`
  /// before it changes anything if the lock or the log is no more what it was.
  std::uint64_t change_to(const version_record& what, const redo_seal& seal,
                          const std::vector<std::string>& files);
  /// Takes `names`, all that stands in `incoming()`, in place of files of their names and of all
  /// weights of this directory. Durable on return. Throws likewise, and as `require_room_for`.
  void replace_by(const version_record& what, const std::vector<std::string>& names);
  /// Notes that what is there is `what` already. Durable on return. Throws likewise.
  void note(const version_record& what);

 private:
  struct intent;

  std::filesystem::path private_copy() const { return sync_dir_ / "private.tmp"; }
  void read_marker();
  void recover();
  intent parse_intent(const std::string& text) const;
  std::string why_not_ended(const intent& what) const;
  std::string why_not_reached(const intent& what) const;
  void declare(const intent& what);
  std::uint64_t perform(const intent& what);
  void move_in(const std::vector<std::string>& names);
  void finish(const version_record& what);

  std::filesystem::path dir_;
  std::filesystem::path sync_dir_;
  std::function<bool()> stopping_;
  std::optional<file_lock> lock_;
  std::optional<std::uint64_t> version_;
  std::optional<version_record> record_;
  std::string torn_;
  std::string unreadable_;
  bool recovered_ = false;
};

}  // namespace lockstep
