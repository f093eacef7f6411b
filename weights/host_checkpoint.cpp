#include "weights/host_checkpoint.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>
#include <utility>

#include "messages/one_line.hpp"
#include "weights/checkpoint.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/plain_file.hpp"
#include "weights/state_digest.hpp"
#include "weights/stopping.hpp"
#include "weights/unwritable.hpp"

namespace lockstep {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr std::size_t intent_bytes_max = 64 << 20;
constexpr std::string_view sync_name = ".weight_sync";

bool is_plain_name(const std::string& name) {
  return !name.empty() && !name.starts_with('.') && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

// The same bytes: who notes when they were written must not take them for others.
void keep_times(const fs::path& from, const fs::path& to) {
  struct stat status {};
  if (::stat(from.c_str(), &status) != 0) refuse_read(from, "cannot be looked at", errno);
  plain_file copy(to, plain_file::access::write);
  const std::array times{status.st_atim, status.st_mtim};
  if (::futimens(copy.descriptor(), times.data()) != 0)
    refuse_write(to, "cannot be given its time", errno);
  copy.sync();
}

void require_no_directory(const fs::path& file) {
  std::error_code ignored;
  if (fs::is_directory(fs::symlink_status(file, ignored)))
    refuse(errc::unwritable, file, "is a directory where a file is to be");
}

// A link to one may be shared with another checkpoint.
void require_directory(const fs::path& dir) {
  if (!fs::is_directory(fs::symlink_status(dir)))
    refuse(errc::unwritable, dir, "is not a directory");
}

[[noreturn]] void refuse_again(const fs::path& file, const std::string& what) {
  throw try_again_error(errc::unwritable, one_line(file.native()) + ": " + what);
}

}  // namespace

void require_workable(const fs::path& dir) {
  const auto sync_dir = dir / sync_name;
  if (!stands(sync_dir)) return;
  require_directory(sync_dir);
  require_no_directory(sync_dir / "lock");
  require_no_directory(sync_dir / "private.tmp");
  for (const std::string name : {"state.json", "lockstep.json", "intent.json", "redo.log"}) {
    require_no_directory(sync_dir / name);
    require_no_directory(sync_dir / (name + ".tmp"));
  }
}

void require_room_for(const fs::path& dir, const std::vector<std::string>& names) {
  for (const auto& name : names) require_no_directory(dir / name);
  // Whatever comes would be read by what stands there, and cannot be.
  require_no_directory(dir / index_name);
}

// What is being done, durable from before the first live byte changes until the marker stands.
struct host_checkpoint::intent {
  version_record record;
  bool full = false;
  redo_seal seal;
  std::vector<std::string> files;
};

host_checkpoint::host_checkpoint(fs::path dir, std::chrono::milliseconds patience,
                                 const std::function<bool()>& stopping)
    : dir_(std::move(dir)), sync_dir_(dir_ / sync_name), stopping_(stopping) {
  make_directories(dir_);
  make_directories(sync_dir_);
  require_directory(sync_dir_);
  lock_.emplace(sync_dir_ / "lock", patience, stopping);
  recover();
}

void host_checkpoint::read_marker() {
  try {
    auto notes = notes_of(dir_);
    version_ = notes.marker;
    record_ = std::move(notes.record);
  } catch (const error& e) {
    if (e.code() != errc::bad_input || is_transient(e)) throw;
    unreadable_ = e.what();
  }
}

host_checkpoint::intent host_checkpoint::parse_intent(const std::string& text) const {
  const auto file = sync_dir_ / "intent.json";
  const auto value = json::parse(text, nullptr, false);
  if (!value.is_object()) refuse(errc::bad_input, file, "is not a JSON object");
  intent out;
  const auto record = parse_record(value.value("record", json::object()));
  const auto bytes = parse_version(text_in(value, "log_bytes"));
  const auto files = value.value("files", json());
  if (!record || !bytes || !files.is_array()) refuse(errc::bad_input, file, "is malformed");
  out.record = *record;
  out.full = text_in(value, "kind") == "full";
  out.seal = {*bytes, text_in(value, "log_digest")};
  for (const auto& name : files) {
    if (!name.is_string() || !is_plain_name(name.get<std::string>()))
      refuse(errc::bad_input, file, "is malformed");
    out.files.push_back(name.get<std::string>());
  }
  return out;
}

// Others replace files, or write others over them, without a word: what was begun must not be ended
// on top of those.
std::string host_checkpoint::why_not_ended(const intent& what) const {
  if (!what.full && !is_sealed(log_file(), what.seal, stopping_))
    return "the log of the change is damaged";
  const auto changed = [](const std::string& name) {
    return fmt::format("others have changed {} since", in_quotes(name));
  };
  for (const auto& was : what.record.files) {
    // Of a full version what is not in `incoming` any more is in place already.
    if (what.full && stands(incoming() / was.name)) continue;
    const auto now = stamps_of(dir_, {was.name});
    const bool same = now.size() == 1 && now[0].number == was.number && now[0].bytes == was.bytes &&
                      (!what.full || now[0].written_ns == was.written_ns);
    if (!same) return changed(was.name);
  }
  return {};
}

// In the same file, as long as it was: only the digest of the whole tells.
std::string host_checkpoint::why_not_reached(const intent& what) const {
  if (what.record.state.empty()) return {};
  try {
    if (state_digest(checkpoint::open(dir_), stopping_) == what.record.state) return {};
  } catch (const error& e) {
    if (e.code() == errc::shut_down) throw;  // the next process ends it, and reads what it gives
    return e.what();
  }
  return "ending it does not give that version: others have changed files since";
}

void host_checkpoint::recover() {
  std::optional<intent> begun;
  const auto file = sync_dir_ / "intent.json";
  // The marker goes before the first live byte changes. One that stands was not taken away yet, or
  // is the next one, or somebody else's since: what is here is what it says, whatever was begun.
  if (stands(file) && stands(sync_dir_ / "state.json")) {
    remove_file(file);
    sync_directory(sync_dir_);
  } else if (stands(file)) {
    // A disk that does not let it be read now may do so the next time: nothing is torn for that.
    const auto text = read_small(file, intent_bytes_max);
    try {
      begun = parse_intent(text);
    } catch (const error&) {  // written whole or not at all: the disk is at fault
      torn_ = "was left by an interrupted change whose record is damaged";
    }
  }
  const auto tear = [&](const std::string& why) {
    if (!why.empty())
      torn_ = fmt::format("was left by an interrupted change to version {}, and {}",
                          begun->record.version, why);
  };
  if (begun) tear(why_not_ended(*begun));
  if (begun && torn_.empty()) {
    perform(*begun);
    tear(why_not_reached(*begun));
    recovered_ = torn_.empty();
    if (recovered_) finish(begun->record);
  }
  if (!torn_.empty()) return remove_file(sync_dir_ / "state.json");
  remove_file(log_file());
  remove_file(sync_dir_ / "redo.log.tmp");
  remove_file(private_copy());
  remove_directory(incoming());
  read_marker();
}

void host_checkpoint::clear_incoming() {
  remove_directory(incoming());
  std::error_code failure;
  fs::create_directory(incoming(), failure);
  if (failure) refuse_write(incoming(), "cannot be made", failure.value());
}

void host_checkpoint::make_private(const std::string& name) {
  const auto file = dir_ / name;
  struct stat status {};
  if (::lstat(file.c_str(), &status) != 0) refuse_read(file, "cannot be looked at", errno);
  if (S_ISREG(status.st_mode) && status.st_nlink == 1) return;
  const auto copy = private_copy();
  copy_whole(file, copy, [&](std::uint64_t) { heed(stopping_, file); });
  keep_times(file, copy);
  if (::rename(copy.c_str(), file.c_str()) != 0)
    refuse_write(file, "cannot be replaced by a copy of its own", errno);
  sync_directory(dir_);
}

void host_checkpoint::declare(const intent& what) {
  require_alone();
  write_object(sync_dir_ / "intent.json", {{"kind", what.full ? "full" : "delta"},
                                           {"record", as_json(what.record)},
                                           {"log_bytes", std::to_string(what.seal.bytes)},
                                           {"log_digest", what.seal.digest},
                                           {"files", what.files}});
}

// All but the last word: the marker.
std::uint64_t host_checkpoint::perform(const intent& what) {
  // Who knows nothing of the intent must not take a mix for the old version.
  remove_file(sync_dir_ / "state.json");
  sync_directory(sync_dir_);
  version_.reset();
  std::uint64_t rewritten = 0;
  if (what.full) {
    move_in(what.files);
  } else {
    std::vector<fs::path> files;
    for (const auto& name : what.files) files.push_back(dir_ / name);
    rewritten = redo(log_file(), files);
  }
  return rewritten;
}

void host_checkpoint::move_in(const std::vector<std::string>& names) {
  for (const auto& name : names) {
    const auto from = incoming() / name;
    if (!stands(from)) continue;  // moved before an interruption
    const auto to = dir_ / name;
    require_no_directory(to);
    if (::rename(from.c_str(), to.c_str()) != 0) refuse_write(to, "cannot be replaced", errno);
  }
  for (const auto& file : files_in(dir_)) {
    const auto name = file.filename().string();
    std::error_code ignored;
    // Its configuration and its tokenizer are the host's own, where the new one has none.
    if (!is_plain_name(name) || !(file.extension() == ".safetensors" || name == index_name) ||
        fs::is_directory(fs::symlink_status(file, ignored)))
      continue;
    if (std::find(names.begin(), names.end(), name) == names.end()) remove_file(file);
  }
  sync_directory(dir_);
}

void host_checkpoint::note(const version_record& what) {
  require_alone();  // or the marker would stand for what two have written
  if (version_ && *version_ != what.version) {  // or between the two it would say what is not there
    remove_file(sync_dir_ / "state.json");
    sync_directory(sync_dir_);
  }
  auto noted = what;
  noted.files = stamps_of(dir_, weight_files(dir_));
  write_object(sync_dir_ / "lockstep.json", as_json(noted));
  write_object(sync_dir_ / "state.json", {{"version", version_text(what.version)}});
  version_ = what.version;
  record_ = std::move(noted);
}

void host_checkpoint::finish(const version_record& what) {
  note(what);
  remove_file(sync_dir_ / "intent.json");
  sync_directory(sync_dir_);
  remove_file(log_file());
  torn_.clear();
  unreadable_.clear();
}

std::uint64_t host_checkpoint::change_to(const version_record& what, const redo_seal& seal,
                                         const std::vector<std::string>& files) {
  // What is declared must be what was proven: others may have put another log there.
  if (!is_sealed(log_file(), seal, stopping_))
    refuse_again(log_file(), "is not the log that was written: somebody else is at work there");
  intent declared{what, false, seal, files};
  declared.record.files = stamps_of(dir_, files);
  declare(declared);
  const auto rewritten = perform(declared);
  finish(what);
  return rewritten;
}

void host_checkpoint::replace_by(const version_record& what,
                                 const std::vector<std::string>& names) {
  // Found when some have been moved in it would leave a mix that no pull can end.
  require_room_for(dir_, names);
  sync_directory(incoming());
  intent declared;
  declared.record = what;
  declared.full = true;
  declared.files = names;
  declared.record.files = stamps_of(incoming(), names);
  declare(declared);
  perform(declared);
  finish(what);
  remove_directory(incoming());
}

}  // namespace lockstep
