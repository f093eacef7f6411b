#include "weights/pull_request.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>

#include "weights/file.hpp"

namespace lockstep {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

bool is_same(const fs::path& a, const fs::path& b) {
  std::error_code failure;
  const auto x = fs::weakly_canonical(a, failure);
  if (failure) return false;
  const auto y = fs::weakly_canonical(b, failure);
  return !failure && x == y;
}

std::string text_of(const json& request, const char* key) {
  const auto at = request.find(key);
  if (at == request.end() || !at->is_string())
    throw error(errc::bad_input, fmt::format("{} is not a string", key));
  return at->get<std::string>();
}

/// Whoever may ask is not known, so where may be read and written is not theirs to say.
fs::path permitted_of(const std::vector<std::string>& all, const std::string& dir,
                      const char* key) {
  const auto at =
      std::find_if(all.begin(), all.end(), [&](const auto& known) { return is_same(known, dir); });
  if (at == all.end())
    throw error(errc::bad_input,
                fmt::format("{} {} is not one that is served", key, in_quotes(dir)));
  return *at;
}

}  // namespace

pull_request parse_pull_request(std::string_view body, const pull_directories& permitted) {
  const auto request = json::parse(body, nullptr, false);
  if (!request.is_object()) throw error(errc::bad_input, "the body is not a JSON object");
  const auto checkpoint = text_of(request, "local_checkpoint_dir");
  const auto source = text_of(request, "source_dir");
  const auto target = request.find("target_version");
  if (target == request.end() || !target->is_number_unsigned() || target->get<std::uint64_t>() == 0)
    throw error(errc::bad_input, "target_version is not a number from 1 on");
  return {permitted_of(permitted.sources, source, "source_dir"),
          permitted_of(permitted.checkpoints, checkpoint, "local_checkpoint_dir"),
          target->get<std::uint64_t>()};
}

bool says_loaded(unsigned status, std::string_view body) {
  if (status != 200) return false;
  const auto said = json::parse(body, nullptr, false);
  if (!said.is_object()) return true;
  const auto success = said.find("success");
  return success == said.end() || *success == true;
}

}  // namespace lockstep
