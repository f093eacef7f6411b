#include "support/child.hpp"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <sstream>
#include <stdexcept>
#include <string_view>

extern char** environ;

namespace lockstep::test {

namespace {

using clock = std::chrono::steady_clock;

class pipe_ends {
 public:
  pipe_ends() {
    if (::pipe2(ends_.data(), O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
  }
  pipe_ends(const pipe_ends&) = delete;
  pipe_ends& operator=(const pipe_ends&) = delete;
  ~pipe_ends() {
    close_end(0);
    close_end(1);
  }
  int end(std::size_t which) const { return ends_[which]; }
  void close_end(std::size_t which) {
    if (ends_[which] >= 0) ::close(ends_[which]);
    ends_[which] = -1;
  }

 private:
  std::array<int, 2> ends_{-1, -1};
};

pid_t start(const std::vector<std::string>& arguments, const child_options& options,
            const pipe_ends& out, const pipe_ends& err) {
  std::vector<char*> argv;
  for (const auto& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  std::vector<char*> envp;
  for (char** e = environ; *e; ++e)
    if (!std::string_view(*e).starts_with("LOCKSTEP_")) envp.push_back(*e);
  for (const auto& e : options.environment) envp.push_back(const_cast<char*>(e.c_str()));
  envp.push_back(nullptr);

  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  if (options.close_stdout)
    posix_spawn_file_actions_addclose(&files, STDOUT_FILENO);
  else if (options.stdout_file.empty())
    posix_spawn_file_actions_adddup2(&files, out.end(1), STDOUT_FILENO);
  else
    posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, options.stdout_file.c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC, 0644);
  posix_spawn_file_actions_adddup2(&files, err.end(1), STDERR_FILENO);

  // What a process ignores its children ignore.
  const auto before = std::signal(SIGPIPE, options.ignore_sigpipe ? SIG_IGN : SIG_DFL);
  pid_t pid = -1;
  const int failure = posix_spawn(&pid, argv[0], &files, nullptr, argv.data(), envp.data());
  std::signal(SIGPIPE, before);
  posix_spawn_file_actions_destroy(&files);
  if (failure != 0) throw std::runtime_error("cannot start " + arguments[0]);
  return pid;
}

// Appends what is there to read; false at the end.
bool drain(int descriptor, std::string& into) {
  std::array<char, 1 << 16> buffer;
  const auto got = ::read(descriptor, buffer.data(), buffer.size());
  if (got > 0) into.append(buffer.data(), static_cast<std::size_t>(got));
  return got > 0;
}

}  // namespace

child_result run_child(const std::vector<std::string>& arguments, const child_options& options) {
  pipe_ends out;
  pipe_ends err;
  const auto pid = start(arguments, options, out, err);
  out.close_end(1);
  err.close_end(1);
  child_result result;
  const auto until = clock::now() + options.deadline;
  clock::time_point signalled{};
  while (out.end(0) >= 0 || err.end(0) >= 0) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(until - clock::now()).count();
    std::array<pollfd, 2> waits{{{out.end(0), POLLIN, 0}, {err.end(0), POLLIN, 0}}};
    if (left <= 0 || ::poll(waits.data(), waits.size(), static_cast<int>(left)) == 0) {
      result.too_late = true;
      ::kill(pid, SIGKILL);
      break;
    }
    if (waits[0].revents != 0 && !drain(out.end(0), result.out)) out.close_end(0);
    if (waits[1].revents != 0 && !drain(err.end(0), result.err)) err.close_end(0);
    const auto lines =
        static_cast<std::size_t>(std::count(result.out.begin(), result.out.end(), '\n'));
    if (options.close_after_lines != 0 && lines >= options.close_after_lines) out.close_end(0);
    if (options.signal_after_lines != 0 && lines >= options.signal_after_lines &&
        signalled == clock::time_point{}) {
      ::kill(pid, options.signal);
      signalled = clock::now();
    }
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  if (signalled != clock::time_point{})
    result.after_signal =
        std::chrono::duration_cast<std::chrono::milliseconds>(clock::now() - signalled);
  if (WIFEXITED(status)) result.status = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  return result;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

}  // namespace lockstep::test
