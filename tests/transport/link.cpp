#include "link.hpp"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cstdlib>
#include <random>

#include "support/places.hpp"

namespace lockstep::test {

namespace fs = std::filesystem;

credentials::credentials() {
  std::string pattern = fs::temp_directory_path() / "lockstep-credentials-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no directory");
  dir_ = pattern;
  const auto make = [](const std::string& before, const fs::path& dir, const std::string& names) {
    const std::string command = before + " '" +
                                (checkout() / "scripts/make-certificates").string() + "' '" +
                                dir.string() + "' " + names;
    if (std::system(command.c_str()) != 0) throw std::runtime_error("failed: " + command);
  };
  make("", dir_, "r0 r1");
  make("DAYS=-1", dir_, "expired");
  make("", dir_ / "other", "r0");
  fs::copy(dir_ / "other" / "ca.pem", dir_ / "other-ca.pem");
  for (const std::string who : {"trainer", "receiver-r0"})
    for (const std::string kind : {".pem", ".key"})
      fs::copy(dir_ / "other" / (who + kind), dir_ / ("other-" + who + kind));
  write_file(dir_ / "key", std::string(64, '5') + "\n");
  write_file(dir_ / "other-key", std::string(63, '5') + "6\n");
}

credentials::~credentials() {
  std::error_code ignored;
  fs::remove_all(dir_, ignored);
}

security_options credentials::certificates(const std::string& who,
                                           const std::string& authority) const {
  security_options o;
  o.certificate_file = dir_ / (who + ".pem");
  o.key_file = dir_ / (who + ".key");
  o.authority_file = dir_ / (authority + ".pem");
  return o;
}

void write_file(const fs::path& file, const std::string& text, bool secret) {
  std::ofstream(file, std::ios::binary | std::ios::trunc) << text;
  if (chmod(file.c_str(), secret ? 0600 : 0644) != 0) throw std::runtime_error("chmod");
}

payload some_bytes(std::size_t size, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(size);
  for (auto& b : bytes) b = static_cast<std::byte>(random());
  return payload(std::move(bytes));
}

bucket_msg some_bucket(std::size_t size, std::uint32_t index) {
  return {{7, {11, 12}, {13, 14}}, index, some_bytes(size, index + 1)};
}

int plain_socket(std::uint16_t port, std::uint32_t from) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  sockaddr_in own{};
  own.sin_family = AF_INET;
  own.sin_addr.s_addr = htonl(from);
  if (fd < 0 || bind(fd, reinterpret_cast<const sockaddr*>(&own), sizeof own) != 0 ||
      connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) {
    if (fd >= 0) close(fd);
    throw std::runtime_error("cannot connect");
  }
  return fd;
}

bool write_all(int fd, std::span<const std::byte> bytes) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (!bytes.empty()) {
    const auto sent = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(sent));
      continue;
    }
    if (errno != EAGAIN || std::chrono::steady_clock::now() > end) return false;
    pollfd wait{fd, POLLOUT, 0};
    poll(&wait, 1, 100);
  }
  return true;
}

std::vector<std::byte> read_exactly(int fd, std::size_t bytes, std::chrono::milliseconds within) {
  const auto end = std::chrono::steady_clock::now() + within;
  std::vector<std::byte> got(bytes);
  std::size_t size = 0;
  while (size < bytes && std::chrono::steady_clock::now() < end) {
    const auto more = recv(fd, got.data() + size, bytes - size, MSG_DONTWAIT);
    if (more == 0 || (more < 0 && errno != EAGAIN)) break;
    if (more > 0) size += static_cast<std::size_t>(more);
    if (more > 0) continue;
    pollfd wait{fd, POLLIN, 0};
    poll(&wait, 1, 20);
  }
  got.resize(size);
  return got;
}

std::chrono::milliseconds time_to_close(int fd) {
  const auto begin = std::chrono::steady_clock::now();
  while (read_exactly(fd, 4096).size() == 4096) {
  }
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() -
                                                               begin);
}

std::size_t resident_bytes() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return 0;
#endif
  std::size_t total = 0;
  std::size_t resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace lockstep::test
