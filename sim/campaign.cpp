#include "sim/campaign.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "messages/errors.hpp"
#include "sim/random.hpp"

namespace lockstep::sim {

namespace {

/// What a child process has found so far. Lies in memory that its parent shares, so that it is
/// there whatever becomes of the child.
struct job_sums {
  std::atomic<std::uint64_t> done{0};
  std::atomic<bool> running{false};
  std::atomic<std::uint64_t> steps{0};  ///< of all seeds
  std::uint64_t seed = 0;               ///< the one that is being run
  bool any_bad = false;
  std::uint64_t first_bad = 0;
  char violation[512] = {};
  campaign_sums sums;
};

struct board {
  std::atomic<bool> stop{false};  ///< its time is over
  /// Where the first violation is that ends the campaign. Seeds before it are run all the same, so
  /// that which one is named does not depend on who was faster.
  std::atomic<std::uint64_t> end{UINT64_MAX};
  job_sums jobs[256];

  void end_at(std::uint64_t offset) {
    auto now = end.load();
    while (offset < now && !end.compare_exchange_weak(now, offset)) {
    }
  }
};

class shared_board {
 public:
  shared_board() {
    auto* memory =
        ::mmap(nullptr, sizeof(board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
      throw error(errc::no_memory, "no memory to share with child processes");
    board_ = new (memory) board;
  }
  ~shared_board() { ::munmap(board_, sizeof(board)); }
  shared_board(const shared_board&) = delete;
  shared_board& operator=(const shared_board&) = delete;
  board* operator->() const { return board_; }

 private:
  board* board_;
};

void note_violation(job_sums& job, std::uint64_t seed, const std::string& what) {
  ++job.sums.violations;
  if (job.any_bad && job.first_bad < seed) return;
  job.any_bad = true;
  job.first_bad = seed;
  const auto size = std::min(what.size(), sizeof job.violation - 1);
  std::memcpy(job.violation, what.data(), size);
  job.violation[size] = 0;
}

void add_run(campaign_sums& sums, std::uint64_t seed, const run_result& r) {
  ++sums.seeds;
  sums.steps += r.steps;
  sums.ok += r.ok;
  sums.recovered += r.recovered;
  sums.degraded += r.degraded;
  sums.aborted += r.aborted;
  sums.lost += r.lost;
  sums.reseeds += r.reseeds;
  sums.catch_ups += r.catch_ups;
  sums.hash += mix(seed, r.hash);
  sums.virtual_time += r.elapsed;
  for (std::size_t i = 0; i < fault_count; ++i) sums.faults[i] += r.faults[i];
  for (std::size_t i = 0; i < consequence_count; ++i) sums.met[i] += r.met[i];
}

void add_sums(campaign_sums& to, const campaign_sums& more) {
  to.seeds += more.seeds;
  to.violations += more.violations;
  to.steps += more.steps;
  to.ok += more.ok;
  to.recovered += more.recovered;
  to.degraded += more.degraded;
  to.aborted += more.aborted;
  to.lost += more.lost;
  to.reseeds += more.reseeds;
  to.catch_ups += more.catch_ups;
  to.hash += more.hash;
  to.virtual_time += more.virtual_time;
  for (std::size_t i = 0; i < fault_count; ++i) to.faults[i] += more.faults[i];
  for (std::size_t i = 0; i < consequence_count; ++i) to.met[i] += more.met[i];
}

/// Runs every `jobs`-th seed from where this job left off.
void work(const campaign_options& o, board& shared, unsigned index) {
  auto& job = shared.jobs[index];
  for (;;) {
    const auto offset = index + job.done * o.jobs;
    if (offset >= o.seeds || offset > shared.end || shared.stop) return;
    auto each = o.each;
    each.seed += offset;
    job.seed = each.seed;
    each.steps_seen = &job.steps;
    job.running = true;
    const auto r = run(each);
    add_run(job.sums, each.seed, r);
    if (!r.violation.empty()) note_violation(job, each.seed, r.violation);
    job.running = false;
    ++job.done;
    if (o.stop_at_first && !r.violation.empty()) shared.end_at(offset);
  }
}

pid_t start(const campaign_options& o, board& shared, unsigned index) {
  const auto parent = ::getpid();
  const auto child = ::fork();
  if (child < 0) throw error(errc::no_memory, "no process can be started");
  if (child > 0) return child;
  // Whatever ends the parent ends us too, also if it has happened by now.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(0);
  int status = 0;
  try {
    work(o, shared, index);
  } catch (...) {
    status = 1;  // taken for a crash of its seed
  }
  ::_exit(status);
}

/// Ends children of which a step does not end.
class hang_watch {
 public:
  explicit hang_watch(const campaign_options& o) : longest_(o.step_time_max), jobs_(o.jobs) {}

  void look(unsigned index, const job_sums& job, pid_t child) {
    auto& seen = jobs_[index];
    const auto now = std::chrono::steady_clock::now();
    // Steps of an earlier seed, or of none, are none of this one's.
    const std::pair mark{job.running ? job.done + 1 : 0, std::uint64_t{job.steps}};
    if (mark != seen.mark || mark.first == 0) {
      seen = {mark, now, false};
    } else if (!seen.ended && now - seen.since >= longest_) {
      seen.ended = true;
      ::kill(child, SIGKILL);
    }
  }
  /// Whether the child that has just ended was ended here; asked once.
  bool ended(unsigned index) { return std::exchange(jobs_[index].ended, false); }
  std::string what() const {
    return fmt::format("hang: a step took longer than {:g} s",
                       std::chrono::duration<double>(longest_).count());
  }

 private:
  struct sight {
    std::pair<std::uint64_t, std::uint64_t> mark;
    std::chrono::steady_clock::time_point since;
    bool ended = false;
  };
  std::chrono::milliseconds longest_;
  std::vector<sight> jobs_;
};

}  // namespace

campaign_result run_campaign(const campaign_options& o,
                             const std::function<void(std::uint64_t done)>& progress) {
  shared_board shared;
  std::vector<pid_t> children;
  for (unsigned i = 0; i < o.jobs; ++i) children.push_back(start(o, *shared.operator->(), i));
  hang_watch watch(o);
  const auto began = std::chrono::steady_clock::now();
  for (auto left = children.size(); left > 0;) {
    if (o.time_max.count() != 0 && std::chrono::steady_clock::now() - began >= o.time_max)
      shared->stop = true;
    int status = 0;
    const auto child = ::waitpid(-1, &status, WNOHANG);
    if (child <= 0) {
      std::uint64_t done = 0;
      for (unsigned i = 0; i < o.jobs; ++i) {
        done += shared->jobs[i].done;
        watch.look(i, shared->jobs[i], children[i]);
      }
      if (progress) progress(done);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      continue;
    }
    const auto at = std::ranges::find(children, child);
    if (at == children.end()) continue;
    const auto index = static_cast<unsigned>(at - children.begin());
    auto& job = shared->jobs[index];
    const bool whole = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    const auto offset = index + job.done * o.jobs;
    if ((whole && !job.running) || offset >= o.seeds) {
      --left;
      continue;
    }
    // It ended in the midst of a seed, or before the next: that one is bad, and another child goes
    // on after it.
    job.seed = o.each.seed + offset;
    const auto how = WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status))
                                         : std::string("an exception");
    note_violation(job, job.seed,
                   watch.ended(index) ? watch.what() : "crash: the process ended by " + how);
    ++job.sums.seeds;
    job.running = false;
    ++job.done;
    if (o.stop_at_first) shared->end_at(offset);
    *at = start(o, *shared.operator->(), index);
  }
  campaign_result out;
  for (unsigned i = 0; i < o.jobs; ++i) {
    const auto& job = shared->jobs[i];
    add_sums(out, job.sums);
    if (!job.any_bad || (out.first_bad_seed && *out.first_bad_seed < job.first_bad)) continue;
    out.first_bad_seed = job.first_bad;
    out.first_violation = job.violation;
  }
  return out;
}

void add(campaign_result& sums, std::uint64_t seed, const run_result& r) {
  add_run(sums, seed, r);
  if (r.violation.empty()) return;
  ++sums.violations;
  if (sums.first_bad_seed) return;
  sums.first_bad_seed = seed;
  sums.first_violation = r.violation;
}

}  // namespace lockstep::sim
