// NCCL's part between processes, with a library in its place that moves the host's memory.
#include "transport/nccl.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <vector>

#include "support/places.hpp"

using namespace lockstep;
using namespace std::chrono_literals;

namespace {

constexpr int members = 3;
using clock_type = nccl_group::clock;

std::string fake_nccl() {
  return test::build_tree() / "tests/transport/libfake_nccl.so";
}

/// How one process of a group finds the others: pipes from process 0.
struct meeting {
  int read_end[members];
  int write_end[members];

  meeting() {
    for (int i = 0; i < members; ++i) {
      int ends[2];
      REQUIRE(::pipe(ends) == 0);
      read_end[i] = ends[0];
      write_end[i] = ends[1];
    }
  }
  ~meeting() {
    for (int i = 0; i < members; ++i) {
      ::close(read_end[i]);
      ::close(write_end[i]);
    }
  }
  bool tell(int to, const nccl_id& id) const {
    return ::write(write_end[to], id.data(), id.size()) == static_cast<ssize_t>(id.size());
  }
  bool hear(int as, nccl_id& id) const {
    return ::read(read_end[as], id.data(), id.size()) == static_cast<ssize_t>(id.size());
  }
};

/// One process of a group. Its exit status: 0, or which step went wrong.
class member {
 public:
  member(const meeting& where, int number) : where_(where), number_(number) {
    failure why;
    library_ = nccl_library::open(fake_nccl(), why);
    group_ = std::make_unique<nccl_group>(library_);
  }

  failure join(int size, std::chrono::milliseconds within) {
    nccl_id id{};
    if (number_ == 0) {
      if (const auto why = nccl_group::make_id(*library_, id)) return why;
      for (int i = 1; i < size; ++i)
        if (!where_.tell(i, id)) return {errc::dead, "pipe"};
    } else if (!where_.hear(number_, id)) {
      return {errc::dead, "pipe"};
    }
    return group_->join(id, size, number_, clock_type::now() + within);
  }

  /// Whether everybody has what process `root` sends is checked by everybody.
  failure broadcast(std::chrono::milliseconds within, int root = 0) {
    std::vector<unsigned char> bytes(1 << 20, static_cast<unsigned char>(number_ == root ? 7 : 0));
    std::atomic<int> stream{0};
    auto why = group_->broadcast(
        bytes.data(), bytes.size(), root, &stream, [&] { return stream == 1; },
        clock_type::now() + within);
    if (why) return why;
    for (const auto byte : bytes)
      if (byte != 7) return {errc::bad_checksum, "other bytes"};
    return {};
  }

  /// A broadcast on a stream that cannot be asked whether it is done.
  failure broadcast_on_bad_stream(std::chrono::milliseconds within) {
    char byte = 0;
    std::atomic<int> stream{0};
    return group_->broadcast(
        &byte, 1, 0, &stream,
        []() -> bool { throw std::runtime_error("an illegal address was encountered"); },
        clock_type::now() + within);
  }

  bool joined() const { return group_->joined(); }

 private:
  const meeting& where_;
  int number_;
  std::shared_ptr<const nccl_library> library_;
  std::unique_ptr<nccl_group> group_;
};

/// Runs `work(number)` in a process each. @returns what they ended with, -1 for those that had to
/// be killed.
template <class Work>
std::vector<int> in_processes(Work work) {
  std::vector<pid_t> children;
  for (int i = 0; i < members; ++i) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(work(i));
    children.push_back(child);
  }
  std::vector<int> results(children.size(), -1);
  const auto until = clock_type::now() + 30s;
  for (std::size_t i = 0; i < children.size(); ++i) {
    int status = 0;
    pid_t ended = 0;
    while ((ended = ::waitpid(children[i], &status, WNOHANG)) == 0 && clock_type::now() < until)
      std::this_thread::sleep_for(2ms);
    if (ended == 0) {
      ::kill(children[i], SIGKILL);
      ::waitpid(children[i], &status, 0);
    } else if (WIFEXITED(status)) {
      results[i] = WEXITSTATUS(status);
    } else {
      results[i] = -WTERMSIG(status);
    }
  }
  return results;
}

/// Those that are left after process 2 was lost meet anew, and go on.
int go_on_without_the_last(member& self) {
  if (self.joined()) return 20;
  if (self.join(2, 10s)) return 21;
  if (self.broadcast(10s)) return 22;
  return 0;
}

}  // namespace

TEST_CASE("a group of processes broadcasts through NCCL's symbols") {
  const meeting where;
  const auto results = in_processes([&](int number) {
    member self(where, number);
    if (self.join(members, 10s)) return 1;
    for (int i = 0; i < 3; ++i)
      if (self.broadcast(10s)) return 2;
    return 0;
  });
  CHECK(results == std::vector<int>{0, 0, 0});
}

TEST_CASE("a member that hangs in a broadcast is given up at the deadline, and the rest go on") {
  const meeting where;
  const auto results = in_processes([&](int number) {
    member self(where, number);
    if (self.join(members, 10s)) return 1;
    if (number == 2) {
      ::setenv("FAKE_NCCL", "hang", 1);
      return self.broadcast(3s).reason == errc::timeout ? 0 : 2;
    }
    const auto start = clock_type::now();
    const auto why = self.broadcast(500ms);
    // Whose deadline comes first aborts, and the others hear of it.
    if (why.reason != errc::timeout && why.reason != errc::dead) return 3;
    if (clock_type::now() - start > 2500ms) return 4;
    return go_on_without_the_last(self);
  });
  CHECK(results == std::vector<int>{0, 0, 0});
}

TEST_CASE("a member that is killed ends the group, and the rest go on") {
  const meeting where;
  const auto results = in_processes([&](int number) {
    member self(where, number);
    if (self.join(members, 10s)) return 1;
    if (number == 2) ::raise(SIGKILL);
    const auto why = self.broadcast(10s);
    if (why.reason != errc::dead) return 2;
    return go_on_without_the_last(self);
  });
  CHECK(results == std::vector<int>{0, 0, -SIGKILL});
}

TEST_CASE("a member that never comes does not keep the others from going on") {
  const meeting where;
  const auto results = in_processes([&](int number) {
    if (number == 2) return 0;
    member self(where, number);
    const auto why = self.join(members, 500ms);
    if (why.reason != errc::timeout && why.reason != errc::dead) return 2;
    return go_on_without_the_last(self);
  });
  CHECK(results == std::vector<int>{0, 0, 0});
}

TEST_CASE("an error that NCCL reports at once ends the group") {
  const meeting where;
  const auto results = in_processes([&](int number) {
    member self(where, number);
    if (self.join(members, 10s)) return 1;
    if (number == 1) ::setenv("FAKE_NCCL", "fail", 1);
    if (self.broadcast(5s).reason != errc::dead) return 2;
    if (self.joined()) return 3;
    return self.broadcast(5s).reason == errc::dead ? 0 : 4;
  });
  CHECK(results == std::vector<int>{0, 0, 0});
}

TEST_CASE("every member may be the one that sends") {
  const meeting where;
  const auto results = in_processes([&](int number) {
    member self(where, number);
    if (self.join(members, 10s)) return 1;
    for (int root = members - 1; root >= 0; --root)
      if (self.broadcast(10s, root)) return 2;
    return 0;
  });
  CHECK(results == std::vector<int>{0, 0, 0});
}

TEST_CASE("a broadcast that NCCL has not enqueued yet is waited for") {
  const meeting where;
  const auto results = in_processes([&](int number) {
    member self(where, number);
    if (self.join(members, 10s)) return 1;
    if (number != 1) ::setenv("FAKE_NCCL", "slow", 1);
    for (int i = 0; i < 3; ++i)
      if (self.broadcast(10s)) return 2;
    return 0;
  });
  CHECK(results == std::vector<int>{0, 0, 0});
}

TEST_CASE(
    "a device that fails under a broadcast ends the group at once, and nobody else is blamed") {
  const meeting where;
  const auto results = in_processes([&](int number) {
    member self(where, number);
    if (self.join(members, 10s)) return 1;
    const auto start = clock_type::now();
    if (number != 2) {
      const auto why = self.broadcast(20s);  // it may be done before the other one gives up
      if (why && why.reason != errc::dead) return 2;
    } else {
      const auto why = self.broadcast_on_bad_stream(20s);
      if (why.reason != errc::apply_failed) return 3;
      if (why.detail != "NCCL: broadcast: an illegal address was encountered") return 4;
      if (self.joined()) return 5;
    }
    return clock_type::now() - start < 10s ? 0 : 6;
  });
  CHECK(results == std::vector<int>{0, 0, 0});
}

TEST_CASE("joining that NCCL refuses at once leaves no group behind") {
  for (const char* how : {"refuse", "refuse late"}) {
    const meeting where;
    const auto results = in_processes([&](int number) {
      if (number != 0) return 0;
      member self(where, number);
      ::setenv("FAKE_NCCL", how, 1);
      const auto why = self.join(1, 10s);
      if (why.reason != errc::bad_input) return 1;
      if (why.detail != "NCCL: joining: some error") return 2;
      return self.joined() ? 3 : 0;
    });
    CHECK(results == std::vector<int>{0, 0, 0});
  }
}

TEST_CASE("a library that is not NCCL, or not there, is refused with a reason") {
  failure why;
  CHECK(nccl_library::open("libno-such-nccl.so.2", why) == nullptr);
  CHECK(why.reason == errc::bad_input);
  CHECK_FALSE(why.detail.empty());
  why = {};
  CHECK(nccl_library::open("libm.so.6", why) == nullptr);
  CHECK(why.detail.find("ncclGet") != std::string::npos);
  why = {};
  const auto library = nccl_library::open(fake_nccl(), why);
  REQUIRE(library != nullptr);
  CHECK(library->version() == 22809);
}
