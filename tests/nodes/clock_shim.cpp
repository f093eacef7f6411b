// Lets the clocks of a program run too fast or too slow: preloaded, it stands between the program
// and the C library.
//
//   CLOCK_FACTOR=F   from its start on, F seconds pass in this process while one passes elsewhere;
//                    what it waits for comes when its own clock says so
//   CLOCK_LOG=FILE   at exit one object: how many seconds the program's two clocks went on
//                    ("steady", "system"), how many it really was ("steady_real", "system_real"),
//                    how many waits went by such a clock ("waits"), and how many of
//                    those for a condition were over before their time ("early")
#include <dlfcn.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <limits>

namespace {

/// The C library's own.
template <class Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
}

constexpr std::int64_t second = 1'000'000'000;

std::int64_t in_ns(const timespec& t) {
  return t.tv_sec * second + t.tv_nsec;
}

timespec as_timespec(std::int64_t ns) {
  return {ns / second, ns % second};
}

std::int64_t really(clockid_t clock) {
  static const auto look = next<int (*)(clockid_t, timespec*)>("clock_gettime");
  timespec now{};
  look(clock, &now);
  return in_ns(now);
}

/// All clocks but those of the processor's time.
bool drifts(clockid_t clock) {
  return clock >= 0 && clock <= CLOCK_TAI && clock != CLOCK_PROCESS_CPUTIME_ID &&
         clock != CLOCK_THREAD_CPUTIME_ID;
}

struct drift {
  double factor = 1;
  std::array<std::int64_t, CLOCK_TAI + 1> start{};

  drift() {
    if (const char* text = std::getenv("CLOCK_FACTOR")) factor = std::strtod(text, nullptr);
    for (clockid_t c = 0; c <= CLOCK_TAI; ++c)
      if (drifts(c)) start[c] = really(c);
  }
};

/// Made at the first look, which is that of the library's own start at the latest.
const drift& the_drift() {
  static const drift it;
  return it;
}

std::int64_t scaled(std::int64_t ns, double factor) {
  return static_cast<std::int64_t>(std::ceil(static_cast<double>(ns) * factor));
}

std::int64_t seen(clockid_t clock) {
  const auto& d = the_drift();
  return d.start[clock] + scaled(really(clock) - d.start[clock], d.factor);
}

// --- waits --------------------------------------------------------------------------------------

std::atomic<long> waits = 0, early = 0;

/// Longer than any process lives: such waits are for ever, and would overflow.
constexpr std::int64_t for_ever_s = std::int64_t{1} << 33;

/// What the system's clock says when ours reaches `deadline`.
timespec real_deadline(clockid_t clock, const timespec& deadline) {
  if (!drifts(clock) || deadline.tv_sec >= for_ever_s) return deadline;
  ++waits;
  const auto& d = the_drift();
  const auto at = d.start[clock] + scaled(in_ns(deadline) - d.start[clock], 1 / d.factor);
  return as_timespec(at < 0 ? 0 : at);
}

/// How long it really takes until `span` of ours is over.
timespec real_span(const timespec& span) {
  if (span.tv_sec >= for_ever_s || in_ns(span) == 0) return span;
  ++waits;
  return as_timespec(scaled(in_ns(span), 1 / the_drift().factor));
}

int real_ms(int ms) {
  if (ms <= 0) return ms;
  ++waits;
  const double real = std::ceil(ms / the_drift().factor);
  return real < std::numeric_limits<int>::max() ? static_cast<int>(real)
                                                : std::numeric_limits<int>::max();
}

/// Which clock a condition variable waits by stands inside it; but no machine has been up for half
/// of the time since 1970.
clockid_t clock_of(const timespec& deadline) {
  return in_ns(deadline) > the_drift().start[CLOCK_REALTIME] / 2 ? CLOCK_REALTIME : CLOCK_MONOTONIC;
}

int waited(int result, clockid_t clock, const timespec& deadline) {
  if (result == ETIMEDOUT && seen(clock) < in_ns(deadline)) ++early;
  return result;
}

// --- what it looked like ------------------------------------------------------------------------

/// What the program's clock says, as the C++ library asks, and the system's at the same moment.
template <class Clock>
struct look {
  std::int64_t ours = 0, real = 0;

  explicit look(clockid_t clock) {
    auto shortest = std::numeric_limits<std::int64_t>::max();
    for (int i = 0; i < 20; ++i) {  // a busy machine comes between
      const auto before = really(clock);
      const auto now = std::chrono::nanoseconds(Clock::now().time_since_epoch()).count();
      const auto took = really(clock) - before;
      if (took < shortest) shortest = took, ours = now, real = before + took / 2;
    }
  }
};

struct clocks {
  look<std::chrono::steady_clock> steady{CLOCK_MONOTONIC};
  look<std::chrono::system_clock> system{CLOCK_REALTIME};
};

struct journal {
  clocks start;

  ~journal() {
    const char* name = std::getenv("CLOCK_LOG");
    std::FILE* file = name ? std::fopen(name, "w") : nullptr;
    if (!file) return;
    const clocks end;
    const auto s = [](std::int64_t ns) { return static_cast<double>(ns) / second; };
    std::fprintf(file,
                 "{\"steady\": %.9f, \"steady_real\": %.9f, \"system\": %.9f, \"system_real\": "
                 "%.9f, \"waits\": %ld, \"early\": %ld}\n",
                 s(end.steady.ours - start.steady.ours), s(end.steady.real - start.steady.real),
                 s(end.system.ours - start.system.ours), s(end.system.real - start.system.real),
                 waits.load(), early.load());
    std::fclose(file);
  }
};
const journal since_start;

}  // namespace

extern "C" {

int clock_gettime(clockid_t clock, timespec* now) noexcept {
  if (drifts(clock)) return *now = as_timespec(seen(clock)), 0;
  static const auto look = next<int (*)(clockid_t, timespec*)>("clock_gettime");
  return look(clock, now);
}

int gettimeofday(timeval* now, void*) noexcept {
  const auto ns = seen(CLOCK_REALTIME);
  *now = {ns / second, ns % second / 1000};
  return 0;
}

time_t time(time_t* now) noexcept {
  const auto s = static_cast<time_t>(seen(CLOCK_REALTIME) / second);
  return now ? *now = s : s;
}

int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t clock,
                           const timespec* deadline) {
  static const auto wait =
      next<int (*)(pthread_cond_t*, pthread_mutex_t*, clockid_t, const timespec*)>(
          "pthread_cond_clockwait");
  const auto real = real_deadline(clock, *deadline);
  return waited(wait(condition, mutex, clock, &real), clock, *deadline);
}

int pthread_cond_timedwait(pthread_cond_t* condition, pthread_mutex_t* mutex,
                           const timespec* deadline) {
  static const auto wait =
      next<int (*)(pthread_cond_t*, pthread_mutex_t*, const timespec*)>("pthread_cond_timedwait");
  const auto clock = clock_of(*deadline);
  const auto real = real_deadline(clock, *deadline);
  return waited(wait(condition, mutex, &real), clock, *deadline);
}

int clock_nanosleep(clockid_t clock, int flags, const timespec* wanted, timespec* left) {
  static const auto sleep =
      next<int (*)(clockid_t, int, const timespec*, timespec*)>("clock_nanosleep");
  const auto real =
      (flags & TIMER_ABSTIME) != 0 ? real_deadline(clock, *wanted) : real_span(*wanted);
  return sleep(clock, flags, &real, left);
}

int nanosleep(const timespec* wanted, timespec* left) {
  static const auto sleep = next<int (*)(const timespec*, timespec*)>("nanosleep");
  const auto real = real_span(*wanted);
  return sleep(&real, left);
}

int sigtimedwait(const sigset_t* signals, siginfo_t* info, const timespec* patience) {
  static const auto wait =
      next<int (*)(const sigset_t*, siginfo_t*, const timespec*)>("sigtimedwait");
  if (!patience) return wait(signals, info, nullptr);
  const auto real = real_span(*patience);
  return wait(signals, info, &real);
}

int timerfd_settime(int fd, int flags, const itimerspec* wanted, itimerspec* before) noexcept {
  static const auto set =
      next<int (*)(int, int, const itimerspec*, itimerspec*)>("timerfd_settime");
  // Ours go by the steady clock.
  const auto first = (flags & TFD_TIMER_ABSTIME) != 0
                         ? real_deadline(CLOCK_MONOTONIC, wanted->it_value)
                         : real_span(wanted->it_value);
  const itimerspec real{real_span(wanted->it_interval), first};
  return set(fd, flags, &real, before);
}

int epoll_wait(int fd, epoll_event* events, int most, int ms) {
  static const auto wait = next<int (*)(int, epoll_event*, int, int)>("epoll_wait");
  return wait(fd, events, most, real_ms(ms));
}

int poll(pollfd* files, nfds_t count, int ms) {
  static const auto wait = next<int (*)(pollfd*, nfds_t, int)>("poll");
  return wait(files, count, real_ms(ms));
}

/// Futures of the C++ library wait by this.
long syscall(long number, ...) noexcept {
  static const auto call = next<long (*)(long, ...)>("syscall");
  std::array<long, 6> word{};
  va_list more;
  va_start(more, number);
  for (auto& w : word) w = va_arg(more, long);
  va_end(more);
  timespec real{};
  const auto* deadline = reinterpret_cast<const timespec*>(word[3]);
  if (number == SYS_futex && deadline && (word[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET) {
    const bool by_wall = (word[1] & FUTEX_CLOCK_REALTIME) != 0;
    real = real_deadline(by_wall ? CLOCK_REALTIME : CLOCK_MONOTONIC, *deadline);
    word[3] = reinterpret_cast<long>(&real);
  }
  return call(number, word[0], word[1], word[2], word[3], word[4], word[5]);
}

}  // extern "C"
