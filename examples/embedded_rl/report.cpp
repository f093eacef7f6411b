#include "report.hpp"

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace embedded_rl {

namespace {

// Of 100 steps: what is learned comes to more than a whole point, and chance to a few hundredths.
constexpr double rise_min = 0.8;
constexpr double flat_max = 0.2;

double percent(double part, double whole) {
  return whole == 0 ? 0 : 100 * part / whole;
}

bool as_expected(const options& asked, const run_result& r) {
  const double rise = r.return_last - r.return_first;
  switch (asked.expect) {
    case expectation::rise:
      return rise >= rise_min;
    case expectation::flat:
      return std::abs(rise) <= flat_max;
    case expectation::none:
      break;
  }
  return true;
}

/// The failure that was asked for struck, and the engine came back by a full transfer.
bool has_recovered(const options& asked, const run_result& r) {
  return asked.fail_at == 0 || (r.recovered != 0 && r.reseeds != 0);
}

void print_json(const nlohmann::ordered_json& line) {
  std::puts(line.dump().c_str());
}

void print_summary(const options& asked, const run_result& r, bool fine) {
  std::printf("\nreturn    %+.3f over the first %llu steps, %+.3f over the last: %+.3f\n",
              r.return_first, static_cast<unsigned long long>(r.window), r.return_last,
              r.return_last - r.return_first);
  if (asked.sync)
    std::printf("wire      %.1f %% of %llu full syncs; recovered %llu, reseeds %u\n",
                percent(static_cast<double>(r.wire_bytes), static_cast<double>(r.full_bytes)),
                static_cast<unsigned long long>(r.syncs),
                static_cast<unsigned long long>(r.recovered), r.reseeds);
  std::printf("episodes  %s\n", r.on_policy ? "all played with the weights last published"
                                            : "SOME PLAYED WITH OTHER WEIGHTS THAN PUBLISHED");
  std::printf("bytes     %s\n", r.equal ? "every engine holds exactly what was published"
                                        : "AN ENGINE HOLDS OTHER BYTES THAN PUBLISHED");
  if (asked.fail_at != 0)
    std::printf("failure   %s\n", has_recovered(asked, r)
                                      ? "engine 0 was sent everything again and came back"
                                      : "NO ENGINE FAILED AND CAME BACK, AS WAS ASKED FOR");
  if (asked.expect != expectation::none)
    std::printf("expected  %s: %s\n", asked.expect == expectation::rise ? "a rise" : "no change",
                as_expected(asked, r) ? "yes" : "NO");
  std::printf("%s\n", fine ? "pass" : "FAIL");
}

}  // namespace

void print_header(const options& asked) {
  if (asked.json) return;
  std::printf("%u engines, %llu steps, seed %llu%s\n\n", asked.receivers,
              static_cast<unsigned long long>(asked.steps),
              static_cast<unsigned long long>(asked.seed), asked.sync ? "" : ", no syncs");
  std::printf("%6s %9s %10s %12s %9s  %s\n", "step", "return", "changed %", "wire bytes",
              "% of full", "sync");
}

void print(const options& asked, const step_result& r) {
  if (asked.json) {
    print_json({{"kind", "step"},
                {"step", r.step},
                {"mean_return", r.mean_return},
                {"changed", r.changed},
                {"wire_bytes", r.wire_bytes},
                {"full_bytes", r.full_bytes},
                {"reseeds", r.reseeds},
                {"result", r.result}});
    return;
  }
  const bool worth_it =
      r.step == 1 || r.step == asked.steps || r.step % 10 == 0 || r.result == "recovered";
  if (!worth_it) return;
  std::printf("%6llu %+9.3f %10.1f %12llu %9.1f  %s", static_cast<unsigned long long>(r.step),
              r.mean_return, 100 * r.changed, static_cast<unsigned long long>(r.wire_bytes),
              percent(static_cast<double>(r.wire_bytes), static_cast<double>(r.full_bytes)),
              r.result.empty() ? "-" : r.result.c_str());
  if (r.reseeds != 0) std::printf(", reseeds %u", r.reseeds);
  std::printf("\n");
}

bool conclude(const options& asked, const run_result& r) {
  const bool fine = r.equal && r.on_policy && has_recovered(asked, r) && as_expected(asked, r);
  if (asked.json)
    print_json({{"kind", "summary"},
                {"return_first", r.return_first},
                {"return_last", r.return_last},
                {"window", r.window},
                {"syncs", r.syncs},
                {"recovered", r.recovered},
                {"reseeds", r.reseeds},
                {"wire_bytes", r.wire_bytes},
                {"full_bytes", r.full_bytes},
                {"on_policy", r.on_policy},
                {"equal", r.equal},
                {"check", fine ? "pass" : "fail"}});
  else
    print_summary(asked, r, fine);
  return fine;
}

}  // namespace embedded_rl
