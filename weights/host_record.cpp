#include "weights/host_record.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <system_error>

#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/plain_file.hpp"

namespace lockstep {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr std::size_t marker_bytes_max = 64 << 10;
constexpr std::size_t note_bytes_max = 64 << 20;

bool same_bytes(const file_stamp& a, const file_stamp& b) {
  return a.name == b.name && a.bytes == b.bytes && a.written_ns == b.written_ns;
}

json as_json(const file_stamp& s) {
  return {{"name", s.name}, {"bytes", s.bytes}, {"written_ns", s.written_ns}, {"number", s.number}};
}

std::optional<file_stamp> parse_stamp(const json& value) {
  const auto is_number = [&](const char* key) {
    const auto at = value.find(key);
    return at != value.end() && at->is_number_integer();
  };
  if (!value.is_object() || text_in(value, "name").empty() || !is_number("bytes") ||
      !is_number("written_ns") || !is_number("number"))
    return std::nullopt;
  return file_stamp{text_in(value, "name"), value["bytes"].get<std::uint64_t>(),
                    value["written_ns"].get<std::int64_t>(), value["number"].get<std::uint64_t>()};
}

}  // namespace

std::vector<std::string> weight_files(const fs::path& dir) {
  if (!has_index(dir)) return {std::string(single_file_name)};
  std::vector<std::string> names{std::string(index_name)};
  for (const auto& [shard, tensors] : read_index(dir).shards()) names.push_back(shard);
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<file_stamp> stamps_of(const fs::path& dir, const std::vector<std::string>& names) {
  constexpr std::int64_t second = 1'000'000'000;
  std::vector<file_stamp> out;
  for (const auto& name : names) {
    struct stat status {};
    if (::stat((dir / name).c_str(), &status) != 0) continue;
    out.push_back({name, static_cast<std::uint64_t>(status.st_size),
                   status.st_mtim.tv_sec * second + status.st_mtim.tv_nsec,
                   static_cast<std::uint64_t>(status.st_ino)});
  }
  return out;
}

std::optional<std::string> written_since(const fs::path& dir, const version_record& record) {
  if (record.files.empty()) return std::nullopt;
  std::vector<std::string> names;
  try {
    names = weight_files(dir);
  } catch (const error&) {
    return std::string(index_name);
  }
  const auto now = stamps_of(dir, names);
  const auto [noted, there] =
      std::mismatch(record.files.begin(), record.files.end(), now.begin(), now.end(), same_bytes);
  if (noted != record.files.end()) return noted->name;
  if (there != now.end()) return there->name;
  return std::nullopt;
}

json as_json(const version_record& r) {
  auto files = json::array();
  for (const auto& s : r.files) files.push_back(as_json(s));
  return {{"version", version_text(r.version)},
          {"run", r.run},
          {"index", r.index},
          {"state", r.state},
          {"files", std::move(files)}};
}

std::optional<version_record> parse_record(const json& value) {
  if (!value.is_object()) return std::nullopt;
  const auto version = parse_version(text_in(value, "version"));
  if (!version) return std::nullopt;
  version_record out{
      *version, text_in(value, "run"), text_in(value, "index"), text_in(value, "state"), {}};
  if (const auto files = value.find("files"); files != value.end() && files->is_array())
    for (const auto& entry : *files) {
      auto stamp = parse_stamp(entry);
      if (!stamp) return std::nullopt;
      out.files.push_back(std::move(*stamp));
    }
  return out;
}

std::string text_in(const json& object, const char* key) {
  const auto at = object.find(key);
  return at != object.end() && at->is_string() ? at->get<std::string>() : std::string();
}

json read_object(const fs::path& file, std::size_t bytes_max) {
  auto value = json::parse(read_small(file, bytes_max), nullptr, false);
  if (!value.is_object()) refuse(errc::bad_input, file, "is not a JSON object");
  return value;
}

void write_object(const fs::path& file, const json& value) {
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

host_notes notes_of(const fs::path& checkpoint) {
  const auto dir = checkpoint / ".weight_sync";
  host_notes out;
  out.marker = marker_of(checkpoint);
  if (const auto note = dir / "lockstep.json"; stands(note)) {
    // Only a note; whoever wrote the marker after us did not know of it.
    out.record = parse_record(json::parse(read_small(note, note_bytes_max), nullptr, false));
    if (out.record && out.marker && out.record->version != *out.marker) out.record.reset();
  }
  // Beside a marker it says nothing: see host_checkpoint.
  if (const auto intent = dir / "intent.json"; !out.marker && stands(intent)) {
    const auto value = json::parse(read_small(intent, note_bytes_max), nullptr, false);
    const auto to = value.is_object() ? parse_record(value.value("record", json())) : std::nullopt;
    if (!to) refuse(errc::torn, intent, "cannot be read: what was interrupted cannot be ended");
    out.interrupted = to->version;
  }
  return out;
}

std::optional<std::uint64_t> marker_of(const fs::path& checkpoint) {
  const auto marker = checkpoint / ".weight_sync" / "state.json";
  if (!stands(marker)) return std::nullopt;
  const auto version = parse_version(text_in(read_object(marker, marker_bytes_max), "version"));
  if (!version) refuse(errc::bad_input, marker, "does not say a version");
  return version;
}

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

}  // namespace lockstep
