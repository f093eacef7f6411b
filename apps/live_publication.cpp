#include "apps/live_publication.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <utility>

#include "apps/published_output.hpp"
#include "messages/errors.hpp"

namespace lockstep {

live_publication::live_publication(layout shape, published_fleet_options options, bool json)
    : to_(std::move(shape), std::move(options)), json_(json) {}

void live_publication::seed(const weight_buffer& weights, std::uint64_t label) {
  finish();
  try {
    const auto report = to_.seed(weights, label);
    if (!report.participants.empty() || !report.complete()) print(report);
  } catch (const error& e) {
    fail(label, e.what());
  }
}

void live_publication::add(const weight_buffer& weights, std::uint64_t label) {
  finish();
  // Where the stream could not be begun or read back, it begins anew.
  if (!to_.is_running()) return seed(weights, label);
  try {
    pending_ = to_.sync(label, weights);
  } catch (const error& e) {
    fail(label, e.what());
  }
}

void live_publication::finish() {
  if (const auto waited = std::exchange(pending_, std::nullopt)) print(waited->wait());
}

void live_publication::print(const sync_report& report) {
  if (!report.complete()) complete_ = false;
  print_followed(report, {"publication", "published version", to_.version(), to_.absent()}, json_);
}

void live_publication::fail(std::uint64_t label, const char* why) {
  complete_ = false;
  std::fprintf(stderr, "lockstep: %llu was not published: %s\n",
               static_cast<unsigned long long>(label), why);
}

}  // namespace lockstep
