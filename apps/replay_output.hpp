// Decides what `lockstep replay` prints: lines for people, or one JSON object a line.
// docs/replay.md describes every field.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "actors/receiver.hpp"
#include "messages/report.hpp"

namespace lockstep {

/// What became of one receiver in the end.
struct audit_line {
  receiver_id id = 0;
  std::string name;
  bool pass = false;
  std::string why_not;  ///< names the first tensor that differs, or what it is not ready for
  std::uint32_t reseeds = 0;
  std::uint32_t catch_ups = 0;
  std::uint32_t restarts = 0;
};

struct replay_summary {
  std::size_t syncs = 0;
  std::size_t attempts = 0;
  std::uint64_t reseeds = 0;
  std::uint64_t catch_ups = 0;
  std::uint64_t wire_bytes = 0;
  std::uint64_t full_bytes = 0;
  std::uint64_t sent_bytes = 0;
  std::uint64_t reseed_bytes = 0;
  std::uint64_t catch_up_bytes = 0;
  double seconds = 0;
  std::vector<audit_line> receivers;

  /// One try. What receivers needed besides is in their own lines.
  void add(const sync_report& r);
  bool pass() const;
};

class replay_output {
 public:
  explicit replay_output(bool json) : json_(json) {}

  void start(const std::string& what) const;
  /// `base`: the trainer's number of the version before. `states`: as the receivers themselves say.
  void sync(const sync_report& report, std::uint64_t base,
            const std::vector<receiver_status>& states) const;
  void summary(const replay_summary& s) const;

 private:
  bool json_;
};

/// "2.59 MB": decimal, three significant digits.
std::string human_bytes(std::uint64_t bytes);
/// "3.10 ms", "1.25 s".
std::string human_seconds(double seconds);

}  // namespace lockstep
