// Decides how NCCL's C symbols behave in tests: memory of the host over sockets of the loopback, a
// broadcast that is done when all have it. A stream is a `std::atomic<int>` that becomes 1 when the
// work on it is done. FAKE_NCCL in the environment may be "hang" (never send a byte), "fail" (an
// error from broadcasts), "refuse" (an error from joining, and no communicator), "refuse late" (an
// error from joining, with one) or "slow" (broadcasts are said to be in progress before they are
// enqueued), for the member that has it.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int success = 0;
constexpr int invalid_usage = 5;
constexpr int remote_error = 6;
constexpr int in_progress = 7;

struct fake_id {
  std::uint32_t port;
  int listener;  // of the process that made it
  char rest[120];
};

bool has_fault(const char* name) {
  const char* const fault = std::getenv("FAKE_NCCL");
  return fault != nullptr && std::string(fault) == name;
}

bool send_all(int to, const void* data, std::size_t size) {
  for (const char* at = static_cast<const char*>(data); size > 0;) {
    const auto sent = ::send(to, at, size, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    at += sent;
    size -= static_cast<std::size_t>(sent);
  }
  return true;
}
bool receive_all(int from, void* data, std::size_t size) {
  for (char* at = static_cast<char*>(data); size > 0;) {
    const auto got = ::recv(from, at, size, 0);
    if (got <= 0) return false;
    at += got;
    size -= static_cast<std::size_t>(got);
  }
  return true;
}

struct communicator {
  int size = 0;
  int rank = 0;
  fake_id id{};
  std::atomic<int> state{in_progress};
  std::atomic<bool> over{false};
  std::vector<std::atomic<int>> peers;  // of rank 0: all others; of another: rank 0
  std::thread worker;

  explicit communicator(int members) : peers(static_cast<std::size_t>(members)) {
    for (auto& peer : peers) peer = -1;
  }

  void start(bool (communicator::*work)()) {
    if (worker.joinable()) worker.join();
    worker = std::thread([this, work] {
      const bool good = (this->*work)();
      state = good ? success : remote_error;
    });
  }

  bool meet() {
    char hello = 'h';
    while (has_fault("hang") && !over) ::usleep(1000);
    if (rank == 0) {
      for (int i = 1; i < size; ++i) {
        const int peer = ::accept(id.listener, nullptr, nullptr);
        char of = 0;  // they come in any order
        if (peer < 0 || !receive_all(peer, &of, 1)) return false;
        peers[static_cast<std::size_t>(of)] = peer;
      }
      for (int i = 1; i < size; ++i)
        if (!send_all(peers[static_cast<std::size_t>(i)], &hello, 1)) return false;
      return true;
    }
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(id.port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    peers[0] = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const auto me = static_cast<char>(rank);
    return ::connect(peers[0], reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
           send_all(peers[0], &me, 1) && receive_all(peers[0], &hello, 1);
  }

  // One broadcast at a time.
  int root = 0;
  void* buffer = nullptr;
  std::size_t bytes = 0;
  std::atomic<int>* stream = nullptr;

  bool move() {
    char token = 't';
    while (has_fault("hang") && !over) ::usleep(1000);
    if (has_fault("slow")) ::usleep(20'000);
    bool good = true;
    if (root != 0 && rank == root) good = send_all(peers[0], buffer, bytes);
    if (root != 0 && rank == 0)
      good = receive_all(peers[static_cast<std::size_t>(root)], buffer, bytes);
    if (rank == 0) {
      for (int i = 1; i < size; ++i)
        good = good && send_all(peers[static_cast<std::size_t>(i)], buffer, bytes);
      for (int i = 1; i < size; ++i)
        good = good && receive_all(peers[static_cast<std::size_t>(i)], &token, 1);
      for (int i = 1; i < size; ++i)
        good = good && send_all(peers[static_cast<std::size_t>(i)], &token, 1);
    } else {
      good = good && receive_all(peers[0], buffer, bytes) && send_all(peers[0], &token, 1) &&
             receive_all(peers[0], &token, 1);
    }
    if (good) *stream = 1;
    return good;
  }

  void end() {
    over = true;
    if (rank == 0) ::shutdown(id.listener, SHUT_RDWR);
    for (auto& peer : peers)
      if (peer >= 0) ::shutdown(peer, SHUT_RDWR);
    if (worker.joinable()) worker.join();
    for (auto& peer : peers)
      if (peer >= 0) ::close(peer);
    if (rank == 0) ::close(id.listener);
  }
};

}  // namespace

extern "C" {

int ncclGetVersion(int* version) {
  *version = 22809;
  return success;
}

const char* ncclGetErrorString(int status) {
  return status == remote_error ? "remote process exited" : "some error";
}

int ncclGetUniqueId(fake_id* id) {
  *id = {};
  id->listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  if (::bind(id->listener, reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      ::listen(id->listener, 16) != 0 ||
      ::getsockname(id->listener, reinterpret_cast<sockaddr*>(&address), &length) != 0)
    return remote_error;
  id->port = ntohs(address.sin_port);
  return success;
}

int ncclCommInitRankConfig(void** result, int size, fake_id id, int rank, void*) {
  *result = nullptr;
  if (has_fault("refuse")) return invalid_usage;
  auto* const made = new communicator(size);
  made->size = size;
  made->rank = rank;
  made->id = id;
  *result = made;
  if (has_fault("refuse late")) return invalid_usage;
  made->start(&communicator::meet);
  return in_progress;
}

int ncclCommGetAsyncError(void* of, int* state) {
  *state = static_cast<communicator*>(of)->state;
  return success;
}

int ncclCommAbort(void* of) {
  auto* const ended = static_cast<communicator*>(of);
  ended->end();
  delete ended;
  return success;
}

int ncclBroadcast(const void*, void* buffer, std::size_t count, int, int root, void* of,
                  void* stream) {
  auto* const on = static_cast<communicator*>(of);
  if (root < 0 || root >= on->size || has_fault("fail")) return remote_error;
  on->root = root;
  on->buffer = buffer;
  on->bytes = count;
  on->stream = static_cast<std::atomic<int>*>(stream);
  if (has_fault("slow")) {
    on->state = in_progress;
    on->start(&communicator::move);
    return in_progress;
  }
  on->start(&communicator::move);
  return success;
}

}  // extern "C"
