#include "transport/acceptor.hpp"

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "transport/arrival.hpp"
#include "transport/failure_limit.hpp"
#include "transport/log_throttle.hpp"
#include "transport/sockets.hpp"

namespace lockstep {

namespace asio = boost::asio;
using asio::ip::tcp;

namespace {

/// What is waited after the system gave no connection.
constexpr std::chrono::milliseconds accept_pause{100};

}  // namespace

struct acceptor::impl : std::enable_shared_from_this<acceptor::impl> {
  using newcomer = arrival<impl>;

  impl(io_threads& threads, std::shared_ptr<const security> with, acceptor_options from,
       admit_handler may_enter, channel_handler taker, log_function to)
      : io(threads.context()),
        guard(std::move(with)),
        options(std::move(from)),
        admit(std::move(may_enter)),
        on_channel(std::move(taker)),
        log(std::move(to)),
        listener(asio::make_strand(io)),
        pause(listener.get_executor()),
        warning(listener.get_executor()),
        limit(options.failures_per_minute_max) {}

  void listen();
  void warn();
  void accept();
  void arrived(tcp::socket socket);
  void ended(const newcomer* who, const failure& why, bool not_admitted,
             const std::string& address);
  std::uint64_t& count_of(errc reason);
  const char* unwanted(const asio::ip::address& from, const std::string& source);
  std::shared_ptr<newcomer> make_room(const std::string& source);
  void close();

  asio::io_context& io;
  const std::shared_ptr<const security> guard;
  const acceptor_options options;
  const admit_handler admit;
  const channel_handler on_channel;
  log_throttle log;
  tcp::acceptor listener;
  asio::steady_timer pause;
  asio::steady_timer warning;
  std::uint16_t port = 0;

  std::mutex mutex;  // of what follows
  bool closed = false;
  acceptor_counters counters;
  failure_limit limit;
  struct place {
    std::weak_ptr<newcomer> who;
    std::string host;
    std::string source;        ///< it, or its network
    std::uint64_t number = 0;  ///< in the order in which they came
  };
  std::uint64_t arrived_count = 0;
  std::unordered_map<const newcomer*, place> arrivals;
};

void acceptor::impl::listen() {
  const auto where = options.host + ":" + std::to_string(options.port);
  boost::system::error_code failed;
  const auto end = listening_end(io, options.host, options.port, failed);
  if (failed) throw error(errc::unreachable, "cannot listen on " + where + ": " + failed.message());
  guard->check_host(end.address().to_string());  // what a name leads to
  listener.open(end.protocol(), failed);
  if (!failed) listener.set_option(tcp::acceptor::reuse_address(true), failed);
  if (!failed) listener.bind(end, failed);
  if (!failed) listener.listen(tcp::acceptor::max_listen_connections, failed);
  if (failed) throw error(errc::unreachable, "cannot listen on " + where + ": " + failed.message());
  close_on_exec(listener.native_handle());
  port = listener.local_endpoint().port();
}

void acceptor::impl::warn() {
  boost::system::error_code closed_already;
  const auto end = listener.local_endpoint(closed_already);
  if (closed_already || guard->mode() != security_mode::clear || end.address().is_loopback())
    return;
  log(log_level::warn, "in clear",
      text_of(end) +
          " is open to other machines, in clear: whoever reaches it can read and change all that "
          "is said");
  warning.expires_after(options.warn_every);
  warning.async_wait([self = shared_from_this()](boost::system::error_code stopped) {
    if (!stopped) self->warn();
  });
}

void acceptor::impl::accept() {
  listener.async_accept(
      asio::make_strand(io),
      [self = shared_from_this()](boost::system::error_code failed, tcp::socket socket) {
        if (failed == asio::error::operation_aborted || !self->listener.is_open()) return;
        if (!failed) {
          self->arrived(std::move(socket));
          return self->accept();
        }
        {
          const std::lock_guard lock(self->mutex);
          ++self->counters.accept_errors;
        }
        self->log(log_level::error, "not accepted",
                  "a connection could not be accepted: " + failed.message());
        // Most often there are no descriptors left, and none will be at once.
        self->pause.expires_after(accept_pause);
        self->pause.async_wait([self](boost::system::error_code stopped) {
          if (!stopped && self->listener.is_open()) self->accept();
        });
      });
}

void acceptor::impl::arrived(tcp::socket socket) {
  boost::system::error_code gone;
  const auto end = socket.remote_endpoint(gone);
  if (gone) return;
  prepare_socket(socket, options.channels);
  const auto address = text_of(end);
  const auto from = unmapped(end.address());
  auto source = source_of(from);
  std::shared_ptr<newcomer> fresh, out;
  const char* why = nullptr;
  {
    const std::lock_guard lock(mutex);
    if (closed) return;
    out = make_room(source);
    why = unwanted(from, source);
    if (why == nullptr) {
      fresh = std::make_shared<newcomer>(shared_from_this(), std::move(socket), address);
      arrivals.emplace(fresh.get(),
                       place{fresh, from.to_string(), std::move(source), ++arrived_count});
    }
  }
  if (out) {
    out->drop();
    log(log_level::warn, "made way",
        "one of the many that had not been greeted was closed, for one from another address");
  }
  if (why != nullptr) return log(log_level::warn, why, address + " was closed: it " + why);
  fresh->run();
}

/// Where all places are taken, the oldest of the source that has most of them loses its own to a
/// newcomer whose source still has fewer after that: so few addresses, however they dawdle, keep
/// out nobody else. Who comes back is counted and to be dropped. Called with the mutex.
std::shared_ptr<acceptor::impl::newcomer> acceptor::impl::make_room(const std::string& source) {
  if (arrivals.size() < options.unauthenticated_max) return nullptr;
  std::unordered_map<std::string_view, std::size_t> counts;
  for (const auto& [_, its] : arrivals) ++counts[its.source];
  const auto most = std::ranges::max_element(
      counts, {}, [](const auto& c) { return std::pair(c.second, c.first); });
  if (most == counts.end() || most->second < counts[source] + 2) return nullptr;
  auto oldest = arrivals.end();
  for (auto it = arrivals.begin(); it != arrivals.end(); ++it)
    if (it->second.source == most->first &&
        (oldest == arrivals.end() || it->second.number < oldest->second.number))
      oldest = it;
  ++counters.crowded_out;
  auto out = oldest->second.who.lock();
  arrivals.erase(oldest);
  return out;
}

// Counts who is. Called with the mutex.
const char* acceptor::impl::unwanted(const asio::ip::address& from, const std::string& source) {
  if (!from.is_loopback() && limit.is_over(from.to_string(), failure_limit::clock::now())) {
    ++counters.rate_limited;
    return "has failed too often";
  }
  const auto of_source = [&](const auto& a) { return a.second.source == source; };
  const char* why = nullptr;
  if (arrivals.size() >= options.unauthenticated_max)
    why = "came while too many others had not been greeted";
  else if (std::ranges::count_if(arrivals, of_source) >= options.unauthenticated_of_one_max)
    why = "came while too many others from there had not been greeted";
  if (why != nullptr) ++counters.crowded_out;
  return why;
}

std::uint64_t& acceptor::impl::count_of(errc reason) {
  switch (reason) {
    case errc::timeout:
      return counters.timed_out;
    case errc::dead:
      return counters.went_away;
    case errc::untrusted:
      return counters.untrusted;
    case errc::wrong_version:
      return counters.wrong_version;
    case errc::wrong_cluster:
      return counters.wrong_cluster;
    default:
      return counters.malformed;
  }
}

void acceptor::impl::ended(const newcomer* who, const failure& why, bool not_admitted,
                           const std::string& address) {
  {
    const std::lock_guard lock(mutex);
    const auto left = arrivals.extract(who);
    if (why.reason == errc::shut_down) return;
    if (left.empty() && why) return;  // it has made way, and was counted for that
    if (not_admitted) {
      ++counters.not_admitted;
    } else if (why) {
      ++count_of(why.reason);
      limit.failed(left.mapped().host, failure_limit::clock::now());
    } else {
      ++counters.accepted;
      return;
    }
  }
  log(log_level::warn, not_admitted ? "not admitted" : to_string(why.reason),
      address + " was refused: " + why.detail);
}

void acceptor::impl::close() {
  std::vector<std::shared_ptr<newcomer>> left;
  {
    const std::lock_guard lock(mutex);
    if (std::exchange(closed, true)) return;
    for (const auto& [_, its] : arrivals)
      if (auto alive = its.who.lock()) left.push_back(std::move(alive));
  }
  for (const auto& who : left) who->drop();
  log.flush();
  asio::post(listener.get_executor(), [self = shared_from_this()] {
    boost::system::error_code ignored;
    self->pause.cancel(ignored);
    self->warning.cancel(ignored);
    self->listener.close(ignored);
  });
}

acceptor::acceptor(io_threads& io, std::shared_ptr<const security> guard, acceptor_options options,
                   admit_handler admit, channel_handler on_channel, log_function log)
    : impl_(std::make_shared<impl>(io, std::move(guard), std::move(options), std::move(admit),
                                   std::move(on_channel), std::move(log))) {
  impl_->guard->check_host(impl_->options.host);
  impl_->listen();
  asio::post(impl_->listener.get_executor(), [self = impl_] {
    self->warn();
    self->accept();
  });
}

acceptor::~acceptor() {
  impl_->close();
}

std::uint16_t acceptor::port() const noexcept {
  return impl_->port;
}

acceptor_counters acceptor::counters() const {
  const std::lock_guard lock(impl_->mutex);
  auto now = impl_->counters;
  now.unauthenticated = static_cast<std::uint32_t>(impl_->arrivals.size());
  return now;
}

void acceptor::close() {
  impl_->close();
}

}  // namespace lockstep
