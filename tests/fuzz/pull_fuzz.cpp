// The bytes are the body of a request: what `POST /pull_weights` reads of it; and the body of an
// engine's answer.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "fuzz/fuzz.hpp"
#include "fuzz/pull_directories.hpp"
#include "fuzz/refusal.hpp"
#include "messages/errors.hpp"
#include "weights/pull_request.hpp"

namespace {

using namespace lockstep;
using nlohmann::json;

bool is_one_of(const std::filesystem::path& dir, const std::vector<std::string>& all) {
  return std::find(all.begin(), all.end(), dir.native()) != all.end();
}

void check_request(std::string_view body, const pull_directories& permitted) {
  const fuzz::held_bytes bound(128 * body.size() + (64 << 10));
  std::optional<pull_request> asked;
  if (!fuzz::accepted({errc::bad_input}, [&] { asked = parse_pull_request(body, permitted); }))
    return;
  fuzz::demand(is_one_of(asked->source, permitted.sources) &&
                   is_one_of(asked->checkpoint, permitted.checkpoints),
               "only what is served is read and written");
  fuzz::demand(asked->target > 0, "versions begin with 1");
  const json again{{"source_dir", asked->source.native()},
                   {"local_checkpoint_dir", asked->checkpoint.native()},
                   {"target_version", asked->target}};
  const auto same = parse_pull_request(again.dump(), permitted);
  fuzz::demand(same.source == asked->source && same.checkpoint == asked->checkpoint &&
                   same.target == asked->target,
               "what is accepted can be asked for in its own words");
}

void check_answer(std::string_view body) {
  const fuzz::held_bytes bound(128 * body.size() + (64 << 10));
  const bool loaded = says_loaded(200, body);
  fuzz::demand(!says_loaded(500, body), "who fails has not loaded");
  const auto said = json::parse(body, nullptr, false);
  const bool denied = said.is_object() && said.contains("success") && said["success"] != true;
  fuzz::demand(loaded == !denied, "an engine is believed unless it says otherwise");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const pull_directories permitted{
      {fuzz::pull_sources.begin(), fuzz::pull_sources.end()},
      {fuzz::pull_checkpoints.begin(), fuzz::pull_checkpoints.end()}};
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  check_request(body, permitted);
  check_answer(body);
  return 0;
}
