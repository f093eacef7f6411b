#include "weights/host_checkpoint.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <nlohmann/json.hpp>
#include <system_error>
#include <thread>
#include <utility>

#include "weights/file.hpp"
#include "weights/plain_file.hpp"

namespace lockstep {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr std::size_t state_bytes_max = 64 << 10;
constexpr std::size_t intent_bytes_max = 64 << 20;
constexpr std::chrono::milliseconds lock_pause(20);

std::string reason() {
  return std::generic_category().message(errno);
}

json parse_object(const fs::path& file, std::size_t bytes_max) {
  auto value = json::parse(read_small(file, bytes_max), nullptr, false);
  if (!value.is_object()) refuse(errc::bad_input, file, "is not a JSON object");
  return value;
}

std::string text_in(const json& object, const char* key) {
  const auto at = object.find(key);
  return at != object.end() && at->is_string() ? at->get<std::string>() : std::string();
}

void write_json(const fs::path& file, const json& value) {
  std::string text;
  try {
    text = value.dump();
  } catch (const json::exception&) {
    refuse(errc::bad_input, file, "would hold a file's name that is not valid UTF-8");
  }
  file_writer out(file);
  out.write(text);
  out.commit();
}

json as_json(const version_record& r) {
  return {{"version", version_text(r.version)}, {"run", r.run}, {"index", r.index}};
}

std::optional<version_record> record_in(const json& object) {
  const auto version = parse_version(text_in(object, "version"));
  if (!version) return std::nullopt;
  return version_record{*version, text_in(object, "run"), text_in(object, "index")};
}

bool is_plain_name(const std::string& name) {
  return !name.empty() && !name.starts_with('.') && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

void make_directory(const fs::path& dir) {
  std::error_code failure;
  fs::create_directories(dir, failure);
  struct stat status {};
  if (failure || ::lstat(dir.c_str(), &status) != 0)
    refuse(errc::unwritable, dir, "cannot be made: " + failure.message());
}

}  // namespace

std::string version_text(std::uint64_t version) {
  return fmt::format("{:06}", version);
}

std::optional<std::uint64_t> parse_version(const std::string& text) {
  std::uint64_t value = 0;
  const auto* end = text.data() + text.size();
  const auto [rest, problem] = std::from_chars(text.data(), end, value);
  if (text.empty() || problem != std::errc() || rest != end) return std::nullopt;
  return value;
}

std::optional<std::uint64_t> marker_of(const fs::path& checkpoint) {
  const auto marker = checkpoint / ".weight_sync" / "state.json";
  if (!stands(marker)) return std::nullopt;
  const auto version = parse_version(text_in(parse_object(marker, state_bytes_max), "version"));
  if (!version) refuse(errc::bad_input, marker, "does not say a version");
  return version;
}

// What is being done, durable from before the first live byte changes until the marker stands.
struct host_checkpoint::intent {
  version_record record;
  bool full = false;
  redo_seal seal;
  std::vector<std::string> files;
};

host_checkpoint::host_checkpoint(fs::path dir, std::chrono::milliseconds patience)
    : dir_(std::move(dir)), sync_dir_(dir_ / ".weight_sync") {
  make_directory(dir_);
  make_directory(sync_dir_);
  if (!fs::is_directory(fs::symlink_status(sync_dir_)))
    refuse(errc::unwritable, sync_dir_, "is not a directory");
  lock(patience);
  try {
    recover();
  } catch (...) {
    ::close(lock_);
    throw;
  }
}

host_checkpoint::~host_checkpoint() {
  if (lock_ >= 0) ::close(lock_);
}

void host_checkpoint::lock(std::chrono::milliseconds patience) {
  const auto file = sync_dir_ / "lock";
  lock_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
  if (lock_ < 0) refuse(errc::unwritable, file, "cannot be opened: " + reason());
  const auto until = std::chrono::steady_clock::now() + patience;
  while (::flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    const bool held = errno == EWOULDBLOCK || errno == EINTR;
    const auto why = reason();
    if (held && std::chrono::steady_clock::now() < until) {
      std::this_thread::sleep_for(lock_pause);
      continue;
    }
    ::close(std::exchange(lock_, -1));
    if (!held) refuse(errc::unwritable, file, "cannot be locked: " + why);
    refuse(errc::timeout, file,
           fmt::format("is held by another process for more than {} ms", patience.count()));
  }
}

void host_checkpoint::read_marker() {
  version_.reset();
  record_.reset();
  version_ = marker_of(dir_);
  if (!version_) return;
  const auto note = sync_dir_ / "lockstep.json";
  if (!stands(note)) return;
  // Only a note; whoever wrote the marker after us did not know of it.
  const auto value = json::parse(read_small(note, state_bytes_max), nullptr, false);
  if (value.is_object()) record_ = record_in(value);
  if (record_ && record_->version != version_) record_.reset();
}

std::optional<host_checkpoint::intent> host_checkpoint::read_intent() const {
  const auto file = sync_dir_ / "intent.json";
  if (!stands(file)) return std::nullopt;
  const auto value = parse_object(file, intent_bytes_max);
  intent out;
  const auto record = record_in(value.value("record", json::object()));
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

void host_checkpoint::recover() {
  std::optional<intent> begun;
  try {
    begun = read_intent();
  } catch (const error&) {  // written whole or not at all: the disk is at fault
    torn_ = true;
  }
  // The marker goes before the first live byte changes. One that stands was not taken away yet, or
  // is the next one, or somebody else's since: what is here is what it says.
  if (begun && stands(sync_dir_ / "state.json")) {
    begun.reset();
    remove_file(sync_dir_ / "intent.json");
    sync_directory(sync_dir_);
  }
  // Of a full version what is not in `incoming` any more is in place already.
  if (begun && !begun->full && !is_sealed(log_file(), begun->seal)) torn_ = true;
  if (torn_) return remove_file(sync_dir_ / "state.json");
  if (begun) {
    recovered_ = true;
    perform(*begun);
  }
  remove_file(log_file());
  remove_file(sync_dir_ / "redo.log.tmp");
  std::error_code failure;
  fs::remove_all(incoming(), failure);
  if (failure) refuse(errc::unwritable, incoming(), "cannot be removed: " + failure.message());
  read_marker();
}

void host_checkpoint::clear_incoming() {
  std::error_code failure;
  fs::remove_all(incoming(), failure);
  if (!failure) fs::create_directory(incoming(), failure);
  if (failure) refuse(errc::unwritable, incoming(), "cannot be made: " + failure.message());
}

void host_checkpoint::make_private(const std::string& name) {
  const auto file = dir_ / name;
  struct stat status {};
  if (::lstat(file.c_str(), &status) != 0)
    refuse(errc::bad_input, file, "cannot be looked at: " + reason());
  if (S_ISREG(status.st_mode) && status.st_nlink == 1) return;
  const auto copy = sync_dir_ / "private.tmp";
  copy_whole(file, copy);
  if (::rename(copy.c_str(), file.c_str()) != 0)
    refuse(errc::unwritable, file, "cannot be replaced by a copy of its own: " + reason());
  sync_directory(dir_);
}

void host_checkpoint::declare(const intent& what) {
  write_json(sync_dir_ / "intent.json", {{"kind", what.full ? "full" : "delta"},
                                         {"record", as_json(what.record)},
                                         {"log_bytes", std::to_string(what.seal.bytes)},
                                         {"log_digest", what.seal.digest},
                                         {"files", what.files}});
}

std::uint64_t host_checkpoint::perform(const intent& what) {
  // Who knows nothing of the intent must not take a mix for the old version.
  remove_file(sync_dir_ / "state.json");
  sync_directory(sync_dir_);
  std::uint64_t rewritten = 0;
  if (what.full) {
    move_in(what.files);
  } else {
    std::vector<fs::path> files;
    for (const auto& name : what.files) files.push_back(dir_ / name);
    rewritten = redo(log_file(), files);
  }
  finish(what.record);
  return rewritten;
}

void host_checkpoint::move_in(const std::vector<std::string>& names) {
  for (const auto& name : names) {
    const auto from = incoming() / name;
    if (!stands(from)) continue;  // moved before an interruption
    const auto to = dir_ / name;
    std::error_code ignored;
    if (fs::is_directory(fs::symlink_status(to, ignored)))
      refuse(errc::unwritable, to, "is a directory");
    if (::rename(from.c_str(), to.c_str()) != 0)
      refuse(errc::unwritable, to, "cannot be replaced: " + reason());
  }
  std::vector<fs::path> strays;
  std::error_code failure;
  for (fs::directory_iterator it(dir_, failure), end; !failure && it != end;
       it.increment(failure)) {
    const auto name = it->path().filename().string();
    std::error_code ignored;
    if (!is_plain_name(name) || fs::is_directory(it->symlink_status(ignored))) continue;
    if (std::find(names.begin(), names.end(), name) == names.end()) strays.push_back(it->path());
  }
  if (failure) refuse(errc::unwritable, dir_, "cannot be listed: " + failure.message());
  for (const auto& file : strays) remove_file(file);
  sync_directory(dir_);
}

void host_checkpoint::finish(const version_record& what) {
  write_json(sync_dir_ / "lockstep.json", as_json(what));
  write_json(sync_dir_ / "state.json", {{"version", version_text(what.version)}});
  remove_file(sync_dir_ / "intent.json");
  sync_directory(sync_dir_);
  remove_file(log_file());
  version_ = what.version;
  record_ = what;
  torn_ = false;
}

std::uint64_t host_checkpoint::change_to(const version_record& what, const redo_seal& seal,
                                         const std::vector<std::string>& files) {
  const intent declared{what, false, seal, files};
  declare(declared);
  return perform(declared);
}

void host_checkpoint::replace_by(const version_record& what,
                                 const std::vector<std::string>& names) {
  sync_directory(incoming());
  intent declared;
  declared.record = what;
  declared.full = true;
  declared.files = names;
  declare(declared);
  perform(declared);
  std::error_code ignored;
  fs::remove_all(incoming(), ignored);
}

}  // namespace lockstep
