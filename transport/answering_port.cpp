#include "transport/answering_port.hpp"

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <map>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "messages/errors.hpp"
#include "messages/wire_stream.hpp"

namespace lockstep {

namespace asio = boost::asio;

struct answering_port::impl {
  /// One peer's connection. All of it runs on the one thread of `sessions`.
  class session : public std::enable_shared_from_this<session> {
   public:
    session(impl& owner, greeting peer, int descriptor)
        : owner_(owner),
          peer_(std::move(peer)),
          socket_(owner.sessions_.context(), descriptor),
          deadline_(owner.sessions_.context(), patience),
          in_(owner.bytes_max_) {}

    const greeting& peer() const { return peer_; }
    void run() {
      deadline_.async_wait([self = weak_from_this()](const auto& cancelled) {
        if (const auto s = self.lock(); s && !cancelled) s->close();
      });
      read();
    }
    void close() {
      boost::system::error_code ignored;
      socket_.close(ignored);
      deadline_.cancel();
    }

   private:
    void read() {
      socket_.async_read_some(asio::buffer(bytes_),
                              [self = shared_from_this()](const auto& failed, std::size_t count) {
                                if (failed) return self->close();
                                self->in_.feed(std::span(self->bytes_).first(count));
                                self->hear();
                              });
    }
    void hear() {
      const auto next = in_.next();
      if (!next) return read();
      const auto* said = std::get_if<wire_message>(&*next);
      const auto answer = said ? owner_.answer_(peer_, *said) : std::nullopt;
      if (!answer) return close();
      out_ = encode_message(*answer);
      asio::async_write(socket_, asio::buffer(out_),
                        [self = shared_from_this()](const auto& failed, std::size_t) {
                          if (failed) return self->close();
                          self->hear();
                        });
    }

    impl& owner_;
    const greeting peer_;
    asio::posix::stream_descriptor socket_;
    asio::steady_timer deadline_;
    wire_stream in_;
    std::array<std::byte, 4096> bytes_{};
    std::vector<std::byte> out_;
  };

  impl(std::shared_ptr<const security> guard, acceptor_options options,
       acceptor::admit_handler admit, answer_handler answer, log_function log)
      : answer_(std::move(answer)),
        bytes_max_(options.self.control_bytes_max),
        acceptor_(
            connections_, std::move(guard), std::move(options), std::move(admit),
            [this](const std::shared_ptr<channel>& c) { take(c); }, std::move(log)) {}
  ~impl() {
    acceptor_.close();
    connections_.stop();
    sessions_.stop();
  }

  void take(const std::shared_ptr<channel>& c) {
    if (c->peer().purpose != channel_purpose::control) return;
    std::shared_ptr<session> s;
    try {
      s = std::make_shared<session>(*this, c->peer(), c->release());
    } catch (const error&) {
      return;  // it has ended already
    }
    sessions_.post([this, s] {
      const auto& p = s->peer();
      auto& place = newest_[{p.role, p.id, p.name}];
      // What an earlier one still has to say is older.
      if (const auto earlier = std::exchange(place, s).lock()) earlier->close();
      s->run();
      std::erase_if(newest_, [](const auto& of) { return of.second.expired(); });
    });
  }

  static constexpr std::chrono::seconds patience{10};

  const answer_handler answer_;
  const std::uint64_t bytes_max_;
  io_threads sessions_{1};
  std::map<std::tuple<node_role, receiver_id, std::string>, std::weak_ptr<session>> newest_;
  io_threads connections_{1};
  acceptor acceptor_;
};

answering_port::answering_port(std::shared_ptr<const security> guard, acceptor_options options,
                               acceptor::admit_handler admit, answer_handler answer,
                               log_function log)
    : impl_(std::make_unique<impl>(std::move(guard), std::move(options), std::move(admit),
                                   std::move(answer), std::move(log))) {}

answering_port::~answering_port() = default;

std::uint16_t answering_port::port() const noexcept {
  return impl_->acceptor_.port();
}

}  // namespace lockstep
