// The bytes are the text of a settings file, then, after a NUL, lines of KEY=VALUE: as they stand
// in the environment where they begin with "LOCKSTEP_", else as on the command line.
#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "config/settings_loader.hpp"
#include "fuzz/fuzz.hpp"

namespace {

using namespace lockstep;

/// More are slow and meet nothing new.
constexpr std::size_t lines_max = 64;

std::vector<std::string> values(const settings_loader& loader) {
  std::vector<std::string> all;
  for (const auto& entry : loader.effective()) all.push_back(entry.value);
  return all;
}

/// Performs `add`, which takes its input whole or not at all.
template <class Add>
void try_to(settings_loader& loader, Add add) {
  const auto before = loader;
  try {
    add();
  } catch (const setting_error& e) {
    fuzz::demand_message(e.what());
    fuzz::demand(values(loader) == values(before), "what is refused changes nothing");
  }
}

void add_line(settings_loader& loader, std::string_view line) {
  const auto equals = line.find('=');
  if (!line.starts_with("LOCKSTEP_") || equals == line.npos) {
    try_to(loader, [&] { loader.add_override(line); });
    return;
  }
  const std::map<std::string, std::string> variables{
      {std::string(line.substr(0, equals)), std::string(line.substr(equals + 1))}};
  try_to(loader, [&] { loader.add_environment(variables); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const auto text = input.substr(0, input.find('\0'));
  auto lines = input.substr(std::min(size, text.size() + 1));
  settings_loader loader;
  try_to(loader, [&] {
    const fuzz::held_bytes bound(512 * text.size() + (64 << 10));
    loader.add_text(text, "f");
  });
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
  settings_loader again;
  again.add_text(settings_toml(loader.effective()), "printed");
  fuzz::demand(values(again) == values(loader), "settings that are printed can be read back");
  return 0;
}
