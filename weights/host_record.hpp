// Decides what is noted of the version that a checkpoint was brought to, and what tells its files
// from others of the same name. Private to weights/ and the program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace lockstep {

/// What is known of a file without reading it.
struct file_stamp {
  std::string name;
  std::uint64_t bytes = 0;
  std::int64_t written_ns = 0;  ///< when its bytes were last written, in ns since 1970
  std::uint64_t number = 0;     ///< its inode: stays when it is renamed or written to
  bool operator==(const file_stamp&) const = default;
};

/// What we note of the version that a checkpoint was brought to, beside the marker that everybody
/// reads.
struct version_record {
  std::uint64_t version = 0;
  std::string run;    ///< own_key::run of the stream, or empty
  std::string index;  ///< what tells the version from one of the same number, or empty
  std::string state;  ///< digest of the whole state, or empty where the stream has none
  /// The files of the weights as we left them, ascending by name; none in notes of old.
  std::vector<file_stamp> files;
};

/// The names of all that `checkpoint::open` would read in `dir`, ascending. Throws
/// `error{bad_input}`.
std::vector<std::string> weight_files(const std::filesystem::path& dir);

/// A stamp of each of `names` in `dir`, links followed; what is not there is left out.
std::vector<file_stamp> stamps_of(const std::filesystem::path& dir,
                                  const std::vector<std::string>& names);

/// The first file of the weights in `dir` that somebody has written, added or taken away since
/// `record` was noted; nothing if there is none, or the record does not say.
std::optional<std::string> written_since(const std::filesystem::path& dir,
                                         const version_record& record);

/// As JSON, and back; nothing if it is none.
nlohmann::json as_json(const version_record& record);
std::optional<version_record> parse_record(const nlohmann::json& value);

/// A string in an object; empty if it is not there or no string.
std::string text_in(const nlohmann::json& object, const char* key);
/// Throws `error{bad_input}` unless `file`, of at most `bytes_max`, holds a JSON object.
nlohmann::json read_object(const std::filesystem::path& file, std::size_t bytes_max);
/// Durable and whole, or not at all. Throws `error`.
void write_object(const std::filesystem::path& file, const nlohmann::json& value);

/// What stands in a checkpoint's `.weight_sync`, read without the lock.
struct host_notes {
  std::optional<std::uint64_t> marker;
  /// Our note of the version that the marker says; without a marker, of the last one.
  std::optional<version_record> record;
  /// The version that an interrupted change leads to, which the next pull ends.
  std::optional<std::uint64_t> interrupted;
};

/// Throws `error{bad_input}` on a marker that cannot be read, `error{torn}` on an interrupted
/// change whose record cannot be.
host_notes notes_of(const std::filesystem::path& checkpoint);

/// What the marker of a checkpoint says, read without the lock; nothing if there is none. Throws
/// `error{bad_input}` on one that cannot be read.
std::optional<std::uint64_t> marker_of(const std::filesystem::path& checkpoint);

/// A version's number as the format writes it: "000007".
std::string version_text(std::uint64_t version);
/// Reads it, padded or not; nothing if it is no number.
std::optional<std::uint64_t> parse_version(const std::string& text);

}  // namespace lockstep
