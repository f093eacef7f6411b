#include "apps/observer.hpp"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <future>
#include <random>

#include "lockstep/lockstep.hpp"
#include "messages/wire_stream.hpp"
#include "transport/address.hpp"
#include "transport/connector.hpp"

namespace lockstep {

namespace {

using std::chrono::milliseconds;
using clock = std::chrono::steady_clock;

/// A descriptor, and the time until which it is waited for.
class conversation {
 public:
  conversation(int descriptor, clock::time_point until) : descriptor_(descriptor), until_(until) {}
  conversation(const conversation&) = delete;
  conversation& operator=(const conversation&) = delete;
  ~conversation() { ::close(descriptor_); }

  void say(const wire_message& m) {
    const auto bytes = encode_message(m);
    for (std::size_t done = 0; done < bytes.size();) {
      wait(POLLOUT);
      const auto count = ::write(descriptor_, bytes.data() + done, bytes.size() - done);
      if (count < 0 && (errno == EAGAIN || errno == EINTR)) continue;
      if (count <= 0) throw error(errc::unreachable, "the trainer closed the connection");
      done += static_cast<std::size_t>(count);
    }
  }

  wire_message hear() {
    for (;;) {
      if (auto next = in_.next()) {
        if (auto* m = std::get_if<wire_message>(&*next)) return std::move(*m);
        throw error(errc::bad_input,
                    "the trainer's answer is none: " + std::get<wire_failure>(*next).detail);
      }
      wait(POLLIN);
      std::array<std::byte, 16 << 10> bytes;
      const auto count = ::read(descriptor_, bytes.data(), bytes.size());
      if (count < 0 && (errno == EAGAIN || errno == EINTR)) continue;
      if (count <= 0) throw error(errc::unreachable, "the trainer closed the connection");
      in_.feed(std::span(bytes).first(static_cast<std::size_t>(count)));
    }
  }

 private:
  void wait(short events) const {
    const auto left = std::chrono::ceil<milliseconds>(until_ - clock::now()).count();
    pollfd ready{descriptor_, events, 0};
    const int count = left > 0 ? ::poll(&ready, 1, static_cast<int>(left)) : 0;
    if (count == 0) throw error(errc::timeout, "the trainer does not answer");
    if (count < 0 && errno != EINTR) throw error(errc::unreachable, "the connection is lost");
  }

  int descriptor_;
  clock::time_point until_;
  wire_stream in_;
};

}  // namespace

answer_of_fleet ask_fleet(const settings& options, const std::string& address, question what,
                          milliseconds patience) {
  const auto until = clock::now() + patience;
  const auto& t = options.transport;
  const auto where = parse_address("address", address);
  connect_options o;
  o.host = where.host;
  o.port = where.port;
  o.deadline = std::min(milliseconds(t.connect_timeout_ms), patience);
  const auto cluster = cluster_id(options.cluster.name);
  o.self.cluster = cluster;
  o.self.role = node_role::observer;
  o.self.name = "observer";
  std::random_device device;
  o.self.link = {device(), device()};
  o.self.control_bytes_max = control_bytes_max;
  o.self.program = "lockstep " LOCKSTEP_VERSION;
  const auto guard = std::make_shared<security>(security_options{
      t.certificate_file, t.key_file, t.authority_file, t.shared_key_file, t.insecure});
  guard->check_own(o.self);
  io_threads io;
  auto dialed = std::make_shared<std::promise<connect_result>>();
  auto result = dialed->get_future();
  connect(io, guard, std::move(o),
          [dialed](connect_result made) { dialed->set_value(std::move(made)); });
  auto made = result.get();  // its own deadline ends this
  if (const auto* why = std::get_if<failure>(&made))
    throw error(why->reason == errc::timeout || why->reason == errc::bad_setting
                    ? why->reason
                    : errc::unreachable,
                why->detail);
  conversation with(std::get<std::shared_ptr<channel>>(made)->release(), until);
  with.say(observe_msg{cluster, what});
  answer_of_fleet out;
  for (;;) {
    auto m = with.hear();
    if (auto* s = std::get_if<status_line_msg>(&m)) {
      out.states.push_back(std::move(*s));
    } else if (auto* a = std::get_if<audit_line_msg>(&m)) {
      out.audits.push_back(std::move(*a));
    } else if (const auto* f = std::get_if<feed_line_msg>(&m)) {
      out.relays.feeds.push_back(*f);
    } else if (const auto* r = std::get_if<relayed_line_msg>(&m)) {
      out.relays.relayed.push_back(*r);
    } else if (auto* l = std::get_if<failed_line_msg>(&m)) {
      out.failures.push_back(std::move(*l));
    } else if (auto* e = std::get_if<observed_msg>(&m)) {
      out.end = *e;
      return out;
    } else if (!std::holds_alternative<beat_msg>(m)) {
      throw error(errc::bad_input, "the trainer answers with " + std::string(name_of(m)));
    }
  }
}

}  // namespace lockstep
