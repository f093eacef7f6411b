#include "common.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <ctime>
#include <system_error>

namespace blackbox {

std::uint64_t now_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

lockstep::layout model(std::size_t kib) {
  using lockstep::dtype;
  const std::uint64_t part = kib * 1024 / 8;
  return lockstep::layout({{"embed", dtype::f32, {part / 8, 4}},
                           {"layers.0", dtype::bf16, {part}},
                           {"layers.1", dtype::bf16, {2, part / 2}},
                           {"head", dtype::u8, {part}},
                           {"norm", dtype::f64, {part / 8}},
                           {"nothing", dtype::f32, {0, 7}},
                           {"scale", dtype::f32, {}}});
}

weights::weights(const lockstep::layout& shape, const std::string& file)
    : size_(static_cast<std::size_t>(shape.total_bytes())) {
  const auto refused = [&](const char* what) {
    throw std::system_error(errno, std::generic_category(), file + ": " + what);
  };
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  int fd = -1;
  if (!file.empty()) {
    fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) refused("open");
    if (::ftruncate(fd, static_cast<off_t>(size_)) != 0) refused("ftruncate");
    flags = MAP_SHARED;
  }
  void* const at = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (at == MAP_FAILED) refused("mmap");
  if (fd >= 0) ::close(fd);
  begin_ = static_cast<std::byte*>(at);
  std::size_t used = 0;
  for (std::size_t i = 0; i < shape.count(); ++i) {
    tensors_.emplace_back(begin_ + used, static_cast<std::size_t>(shape.bytes(i)));
    used += static_cast<std::size_t>(shape.bytes(i));
  }
}

weights::~weights() {
  ::munmap(begin_, size_);
}

std::uint64_t sum(std::span<const std::byte> bytes, std::uint64_t before) {
  for (const auto b : bytes) before = (before ^ std::to_integer<std::uint64_t>(b)) * 0x100000001b3u;
  return before;
}

std::string hex(std::uint64_t value) {
  std::string out(16, '0');
  for (auto at = out.rbegin(); at != out.rend(); ++at, value >>= 4)
    *at = "0123456789abcdef"[value & 15];
  return out;
}

std::uint64_t chance::next() {
  auto z = state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

object& object::member(std::string_view key, std::string_view json) {
  if (!members_.empty()) members_ += ',';
  members_ += '"' + std::string(key) + "\":";
  members_ += json;
  return *this;
}

object& object::text(std::string_view key, std::string_view value) {
  std::string out = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return member(key, out + '"');
}
object& object::number(std::string_view key, std::uint64_t value) {
  return member(key, std::to_string(value));
}
object& object::flag(std::string_view key, bool value) {
  return member(key, value ? "true" : "false");
}
object& object::list(std::string_view key, const std::vector<object>& values) {
  std::string out;
  for (const auto& value : values) out += (out.empty() ? "" : ",") + value.str();
  return member(key, "[" + out + "]");
}

object event(std::string_view kind) {
  return object().text("kind", kind).number("t", now_ns());
}

// In one piece, so that who is killed leaves whole lines.
void write(const object& line) {
  const auto text = line.str() + '\n';
  std::string_view left = text;
  while (!left.empty()) {
    const auto wrote = ::write(STDOUT_FILENO, left.data(), left.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) ::_exit(9);  // nobody keeps the history any more
    left.remove_prefix(static_cast<std::size_t>(wrote));
  }
}

signals::signals() {
  sigemptyset(&set_);
  sigaddset(&set_, SIGTERM);
  sigaddset(&set_, SIGUSR1);
  if (const int code = pthread_sigmask(SIG_BLOCK, &set_, nullptr); code != 0)
    throw std::system_error(code, std::generic_category(), "pthread_sigmask");
}

int signals::next(std::int64_t milliseconds) const {
  const timespec wait{milliseconds / 1000, milliseconds % 1000 * 1'000'000};
  const int number = sigtimedwait(&set_, nullptr, &wait);
  return number < 0 ? 0 : number;
}

lockstep::settings settings_of_environment() {
  lockstep::settings_loader loader;
  loader.add_environment(environ);
  return loader.build();
}

}  // namespace blackbox
