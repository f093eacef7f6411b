// Decides how whole syncs are measured: trainer and receivers in this process, from the trainer's
// tensors to every receiver's proven ones.
#pragma once

#include <cstdint>
#include <vector>

#include "apps/bench_data.hpp"
#include "config/settings.hpp"
#include "messages/report.hpp"

namespace lockstep {

struct sync_bench_options {
  settings runtime;
  std::uint32_t receivers = 1;
  std::uint32_t syncs = 6;  ///< measured; one more goes before them, and is not counted
};

/// One sync.
struct sync_result_of_bench {
  sync_report report;
  sync_report::seconds released{0};  ///< until the trainer had its tensors back
  sync_report::seconds copied{0};    ///< a memcpy of all weights, by one thread, right after it
};

/// Steps of `data` in turn, and where there are no more, the last one back and forth. Every
/// receiver's bytes are compared with the trainer's after the last. Throws `error{wrong_target}` if
/// they differ, `error{timeout}` if a sync does not come to `ok`, and as `bench_data` and
/// `trainer` do.
std::vector<sync_result_of_bench> bench_sync(bench_data& data, const sync_bench_options& options);

}  // namespace lockstep
