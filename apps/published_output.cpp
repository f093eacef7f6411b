#include "apps/published_output.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "apps/replay_output.hpp"
#include "apps/standard_output.hpp"
#include "weights/file.hpp"

namespace lockstep {

namespace {

std::string json_of(const sync_report& r, const followed_version& about) {
  auto receivers = nlohmann::ordered_json::array();
  for (const auto& p : r.participants)
    receivers.push_back({{"name", p.name},
                         {"status", to_string(p.status)},
                         {"reason", to_string(p.reason)},
                         {"detail", p.detail},
                         {"member", p.member},
                         {"version", p.version.number},
                         {"reseeds", p.reseeds}});
  const nlohmann::ordered_json line{{"kind", about.kind},
                                    {"label", r.label},
                                    {"base_version", r.base.number},
                                    {"version", r.target.number},
                                    {"held", about.held},
                                    {"result", to_string(r.result)},
                                    {"reason", to_string(r.reason)},
                                    {"detail", r.detail},
                                    {"wire_bytes", r.wire_bytes},
                                    {"reseed_bytes", r.reseed_bytes},
                                    {"publish_seconds", r.encode.count()},
                                    {"commit_seconds", r.commit.count()},
                                    {"recover_seconds", r.recover.count()},
                                    {"receivers", std::move(receivers)},
                                    {"absent", about.absent}};
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string text_of(const sync_report& r, const followed_version& about) {
  auto line = fmt::format("{} {} {} after {}", about.word, r.target.number, to_string(r.result),
                          human_seconds(r.commit.count()));
  for (const auto& p : r.participants)
    if (p.status != terminal::ok)
      line += fmt::format("; {} {}{} ({})", p.name, to_string(p.reason),
                          p.reseeds > 0 ? ", given all weights" : "", printable(p.detail));
  for (const auto& name : about.absent) line += fmt::format("; {} OUT", name);
  return line;
}

}  // namespace

void print_followed(const sync_report& report, const followed_version& about, bool json) {
  print_out((json ? json_of(report, about) : text_of(report, about)) + '\n');
}

}  // namespace lockstep
