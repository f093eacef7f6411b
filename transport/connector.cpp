#include "transport/connector.hpp"

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/strand.hpp>
#include <string>
#include <utility>
#include <vector>

#include "transport/connector_impl.hpp"
#include "transport/opening.hpp"
#include "transport/sockets.hpp"

namespace lockstep {

namespace asio = boost::asio;
using asio::ip::tcp;

namespace {

/// One attempt. Its pending operations hold it.
class dial : public std::enable_shared_from_this<dial> {
 public:
  dial(asio::io_context& io, std::shared_ptr<const security> guard, connect_options options,
       std::function<void(connect_result)> done)
      : guard_(std::move(guard)),
        options_(std::move(options)),
        done_(std::move(done)),
        address_(options_.host + ":" + std::to_string(options_.port)),
        resolver_(asio::make_strand(io)),
        opening_(tcp::socket(resolver_.get_executor())) {}

  void run() {
    asio::post(resolver_.get_executor(), [self = shared_from_this()] { self->begin(); });
  }

 private:
  void begin() {
    auto self = shared_from_this();
    opening_.limit(options_.deadline, [self] {
      self->fail({errc::timeout, self->address_ + " does not answer in time"});
    });
    boost::system::error_code no_number;
    const auto address = asio::ip::make_address(options_.host, no_number);
    if (!no_number) return reach({tcp::endpoint(address, options_.port)});
    resolver_.async_resolve(
        options_.host, std::to_string(options_.port),
        [self](boost::system::error_code failed, const tcp::resolver::results_type& found) {
          if (self->over()) return;
          if (failed)
            return self->fail({errc::unreachable, self->address_ + ": " + failed.message()});
          self->reach({found.begin(), found.end()});
        });
  }

  bool over() const noexcept { return !done_; }

  void reach(std::vector<tcp::endpoint> ends) {
    ends_ = std::move(ends);
    try {
      for (const auto& end : ends_) guard_->check_host(end.address().to_string());
    } catch (const error& e) {
      return fail({e.code(), e.what()});
    }
    asio::async_connect(
        opening_.socket, ends_,
        [self = shared_from_this()](boost::system::error_code failed, const tcp::endpoint& end) {
          if (self->over()) return;
          if (failed)
            return self->fail({errc::unreachable, self->address_ + ": " + failed.message()});
          self->address_ = text_of(end);
          self->greet();
        });
  }

  void greet() {
    prepare_socket(opening_.socket, options_.channels);
    opening_.secure(*guard_, false, [self = shared_from_this()](failure why) {
      if (why) return self->fail(std::move(why));
      // Before a word is said.
      greeting claimed = self->options_.self;
      claimed.role = self->options_.expected;
      if (const auto proven = self->opening_.proven()) claimed.name = proven->name;
      if (auto wrong = check_identity(*self->guard_, self->opening_.proven(), claimed))
        return self->fail(std::move(wrong));
      self->opening_.send(encode_greeting(self->options_.self), [self](failure not_sent) {
        // A refusal may have come before all was sent.
        if (not_sent && not_sent.reason != errc::dead) return self->fail(std::move(not_sent));
        self->listen();
      });
    });
  }

  void listen() {
    opening_.receive(answer_frame_bytes,
                     [self = shared_from_this()](std::variant<opening::frame, failure> got) {
                       if (auto* why = std::get_if<failure>(&got))
                         return self->fail(std::move(*why));
                       auto decoded = decode_answer(std::get<opening::frame>(got));
                       if (auto* why = std::get_if<failure>(&decoded))
                         return self->fail(std::move(*why));
                       self->judge(std::get<greeting_answer>(std::move(decoded)));
                     });
  }

  void judge(greeting_answer said) {
    if (!said.welcome()) return fail(std::move(said.verdict));
    if (said.self.cluster != options_.self.cluster)
      return fail({errc::wrong_cluster, "belongs to another cluster"});
    if (said.self.role != options_.expected)
      return fail({errc::untrusted, "is a " + std::string(to_string(said.self.role)) + ", not a " +
                                        std::string(to_string(options_.expected))});
    if (auto wrong = check_identity(*guard_, opening_.proven(), said.self))
      return fail(std::move(wrong));
    std::exchange(done_, nullptr)(opening_.to_channel(options_.self, std::move(said.self),
                                                      std::move(address_), options_.channels));
  }

  void fail(failure why) {
    if (over()) return;
    resolver_.cancel();
    opening_.close();
    if (why.detail.find(address_) == std::string::npos) why.detail = address_ + ": " + why.detail;
    std::exchange(done_, nullptr)(std::move(why));
  }

  const std::shared_ptr<const security> guard_;
  const connect_options options_;
  std::function<void(connect_result)> done_;
  std::string address_;
  tcp::resolver resolver_;
  opening opening_;
  std::vector<tcp::endpoint> ends_;
};

}  // namespace

void connect_on(asio::io_context& io, std::shared_ptr<const security> guard,
                connect_options options, std::function<void(connect_result)> done) {
  std::make_shared<dial>(io, std::move(guard), std::move(options), std::move(done))->run();
}

void connect(io_threads& io, std::shared_ptr<const security> guard, connect_options options,
             std::function<void(connect_result)> done) {
  connect_on(io.context(), std::move(guard), std::move(options), std::move(done));
}

}  // namespace lockstep
