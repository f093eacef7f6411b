// Decides, step by step, whether a connection that was accepted becomes a channel.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <variant>

#include "transport/channel.hpp"
#include "transport/greeting.hpp"
#include "transport/opening.hpp"

namespace lockstep {

/// One connection on its way to be a channel. Its pending operations hold it. `Home` is whoever
/// listens, and outlives it: has the acceptor's `guard`, `options`, `admit` and `on_channel`, and
/// `ended(arrival, failure, not_admitted, address)`, which is called once, before `on_channel`.
template <class Home>
class arrival : public std::enable_shared_from_this<arrival<Home>> {
 public:
  arrival(std::shared_ptr<Home> home, boost::asio::ip::tcp::socket socket, std::string address)
      : home_(std::move(home)), address_(std::move(address)), opening_(std::move(socket)) {}
  arrival(const arrival&) = delete;
  arrival& operator=(const arrival&) = delete;

  void run() {
    boost::asio::post(opening_.socket.get_executor(),
                      [self = this->shared_from_this()] { self->begin(); });
  }

  /// From any thread.
  void drop() {
    boost::asio::post(opening_.socket.get_executor(), [self = this->shared_from_this()] {
      self->end({errc::shut_down, "no longer listening"});
    });
  }

 private:
  void begin() {
    if (over_) return;
    auto self = this->shared_from_this();
    opening_.limit(home_->options.handshake_deadline, [self] {
      self->end({errc::timeout, "no greeting in time"});
    });
    opening_.secure(*home_->guard, true, [self](failure why) {
      // TLS has told the peer why, if it speaks TLS.
      if (why.reason == errc::untrusted) return self->part(std::move(why));
      if (why) return self->end(why);
      self->listen();
    });
  }

  void listen() {
    opening_.receive(greeting_frame_bytes,
                     [self = this->shared_from_this()](std::variant<opening::frame, failure> got) {
                       if (auto* why = std::get_if<failure>(&got))
                         return self->refuse(std::move(*why));
                       auto decoded = decode_greeting(std::get<opening::frame>(got));
                       if (auto* why = std::get_if<failure>(&decoded))
                         return self->refuse(std::move(*why));
                       self->judge(std::get<greeting>(std::move(decoded)));
                     });
  }

  void judge(greeting said) {
    peer_ = std::move(said);
    if (peer_.cluster != home_->options.self.cluster)
      return refuse({errc::wrong_cluster, "belongs to another cluster"});
    if (auto wrong = check_identity(*home_->guard, opening_.proven(), peer_))
      return refuse(std::move(wrong));
    if (auto unwanted = home_->admit(peer_, address_)) {
      not_admitted_ = true;
      return refuse(std::move(unwanted));
    }
    answer({}, [self = this->shared_from_this()](failure why) {
      if (why) return self->end(why);
      self->enter();
    });
  }

  void answer(failure verdict, std::function<void(failure)> then) {
    greeting own = home_->options.self;
    own.purpose = peer_.purpose;
    own.link = peer_.link;
    own.stream = peer_.stream;
    opening_.send(encode_answer({std::move(verdict), std::move(own)}), std::move(then));
  }

  /// Says why, where that can help: not to a stranger who speaks something else.
  void refuse(failure why) {
    const bool speaks = why.reason != errc::bad_frame && why.reason != errc::dead &&
                        why.reason != errc::timeout && why.reason != errc::bad_checksum;
    if (!speaks) return end(why);
    answer(why, [self = this->shared_from_this(), why](const failure&) { self->part(why); });
  }

  void part(failure why) {
    opening_.linger([self = this->shared_from_this(), why = std::move(why)] { self->end(why); });
  }

  void enter() {
    if (std::exchange(over_, true)) return;
    const auto& options = home_->options;
    home_->ended(this, {}, false, address_);
    home_->on_channel(
        opening_.to_channel(options.self, std::move(peer_), address_, options.channels));
  }

  void end(const failure& why) {
    if (std::exchange(over_, true)) return;
    opening_.close();
    home_->ended(this, why, not_admitted_, address_);
  }

  const std::shared_ptr<Home> home_;
  const std::string address_;
  opening opening_;
  greeting peer_;
  bool not_admitted_ = false;
  bool over_ = false;
};

}  // namespace lockstep
