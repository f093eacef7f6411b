#include "apps/conversation.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <future>
#include <random>
#include <utility>

#include "lockstep/lockstep.hpp"
#include "messages/errors.hpp"
#include "transport/address.hpp"
#include "transport/connector.hpp"

namespace lockstep {

using std::chrono::milliseconds;
using clock = std::chrono::steady_clock;

namespace {

/// Between two looks at whether the answer is still wanted.
constexpr milliseconds slice{50};

}  // namespace

conversation::conversation(const settings& options, const std::string& address, greeting self,
                           milliseconds patience, std::function<bool()> told_to_stop)
    : until_(clock::now() + patience), told_to_stop_(std::move(told_to_stop)) {
  const auto where = parse_address("address", address);
  connect_options o;
  o.host = where.host;
  o.port = where.port;
  o.deadline = std::min(milliseconds(options.transport.connect_timeout_ms), patience);
  o.self = std::move(self);
  o.self.cluster = cluster_id(options.cluster.name);
  std::random_device device;
  o.self.link = {device(), device()};
  o.self.control_bytes_max = control_bytes_max;
  o.self.program = "lockstep " LOCKSTEP_VERSION;
  const auto guard = std::make_shared<security>(security_of(options.transport));
  guard->check_own(o.self);
  auto dialed = std::make_shared<std::promise<connect_result>>();
  auto result = dialed->get_future();
  connect(io_, guard, std::move(o),
          [dialed](connect_result made) { dialed->set_value(std::move(made)); });
  while (result.wait_for(slice) != std::future_status::ready) go_on();  // its own deadline ends it
  auto made = result.get();
  if (const auto* why = std::get_if<failure>(&made))
    throw error(why->reason == errc::timeout || why->reason == errc::bad_setting
                    ? why->reason
                    : errc::unreachable,
                why->detail);
  descriptor_ = std::get<std::shared_ptr<channel>>(made)->release();
}

conversation::~conversation() {
  ::close(descriptor_);
}

void conversation::say(const wire_message& m) {
  const auto bytes = encode_message(m);
  for (std::size_t done = 0; done < bytes.size();) {
    wait(POLLOUT);
    const auto count = ::send(descriptor_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (count <= 0) throw error(errc::unreachable, "the trainer closed the connection");
    done += static_cast<std::size_t>(count);
  }
}

wire_message conversation::hear() {
  for (;;) {
    if (auto next = in_.next()) {
      auto* m = std::get_if<wire_message>(&*next);
      if (m == nullptr)
        throw error(errc::bad_input,
                    "the trainer's answer is none: " + std::get<wire_failure>(*next).detail);
      if (std::holds_alternative<beat_msg>(*m)) continue;
      return std::move(*m);
    }
    wait(POLLIN);
    std::array<std::byte, 16 << 10> bytes;
    const auto count = ::read(descriptor_, bytes.data(), bytes.size());
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (count <= 0) throw error(errc::unreachable, "the trainer closed the connection");
    in_.feed(std::span(bytes).first(static_cast<std::size_t>(count)));
  }
}

void conversation::wait(short events) const {
  for (;;) {
    const auto left = std::chrono::ceil<milliseconds>(until_ - clock::now());
    if (left <= milliseconds(0)) throw error(errc::timeout, "the trainer does not answer");
    pollfd ready{descriptor_, events, 0};
    const int count = ::poll(&ready, 1, static_cast<int>(std::min(left, slice).count()));
    if (count > 0) return;
    if (count < 0 && errno != EINTR) throw error(errc::unreachable, "the connection is lost");
    go_on();
  }
}

void conversation::go_on() const {
  if (told_to_stop_ && told_to_stop_()) throw error(errc::shut_down, "told to stop");
}

}  // namespace lockstep
