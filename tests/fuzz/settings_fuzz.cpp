// The bytes are the text of a settings file, then, after a NUL, lines of KEY=VALUE: as they stand
// in the environment where they begin with "LOCKSTEP_", else as on the command line.
#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/settings_loader.hpp"
#include "fuzz/fuzz.hpp"
#include "fuzz/scratch.hpp"

namespace {

using namespace lockstep;

/// More are slow and meet nothing new.
constexpr std::size_t lines_max = 64;
constexpr const char* file_name = "f";

std::vector<std::string> values(const settings_loader& loader) {
  std::vector<std::string> all;
  for (const auto& entry : loader.effective()) all.push_back(entry.value);
  return all;
}

/// Performs `add`, which takes its input whole or not at all; returns whether it did.
template <class Add>
bool try_to(settings_loader& loader, Add add) {
  const auto before = loader;
  try {
    add();
    return true;
  } catch (const setting_error& e) {
    fuzz::demand_message(e.what());
    fuzz::demand(loader == before, "what is refused changes nothing");
    return false;
  }
}

void add_line(settings_loader& loader, std::string_view line) {
  if (!line.starts_with("LOCKSTEP_") || line.find('=') == line.npos) {
    try_to(loader, [&] { loader.add_override(line); });
    return;
  }
  // Beside it stands what is not ours, and what is no variable.
  const std::string text(line);
  const std::array variables{"HOME=/", "LOCKSTEP_RUN", text.c_str(),
                             static_cast<const char*>(nullptr)};
  try_to(loader, [&] { loader.add_environment(variables.data()); });
}

/// A file says what its text does, wherever that came from. One that is empty is not there, or is a
/// directory.
void check_file(fuzz::scratch& files, std::string_view text, const settings_loader& loader,
                bool accepted) {
  const auto file = files.path() / file_name;
  settings_loader other;
  if (text.empty()) {
    std::filesystem::remove(file);
    for (const auto& none : {file, files.path()})
      fuzz::demand(!try_to(other, [&] { other.add_file(none); }), "no file is no settings");
    return;
  }
  files.put(file_name, std::as_bytes(std::span(text)));
  fuzz::demand(try_to(other, [&] { other.add_file(file); }) == accepted && other == loader,
               "a file says what its text does");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const auto text = input.substr(0, input.find('\0'));
  auto lines = input.substr(std::min(size, text.size() + 1));
  static fuzz::scratch files;
  settings_loader loader;
  const bool accepted = try_to(loader, [&] {
    const fuzz::held_bytes bound(512 * text.size() + (64 << 10));
    loader.add_text(text, (files.path() / file_name).string());
  });
  check_file(files, text, loader, accepted);
  for (std::size_t count = 0; count < lines_max && !lines.empty(); ++count) {
    const auto line = lines.substr(0, lines.find('\n'));
    add_line(loader, line);
    lines.remove_prefix(std::min(lines.size(), line.size() + 1));
  }
  try {
    validate(loader.build());
  } catch (const setting_error& e) {
    fuzz::demand_message(e.what());
  }
  // What was printed just before reads back as it did.
  static std::optional<settings_loader> printed;
  if (printed == loader) return 0;
  printed = loader;
  settings_loader again;
  again.add_text(settings_toml(loader.effective()), "printed");
  fuzz::demand(values(again) == values(loader), "settings that are printed can be read back");
  return 0;
}
