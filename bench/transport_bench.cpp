// Decides how fast bulk channels are over loopback: in clear as a ratio to raw blocking sockets,
// and under TLS as a ratio to the library over blocking sockets and to its cipher alone, each timed
// in turn with it.
//
// transport_bench [ROUNDS [MIB [CREDIT [WHICH]]]]: medians over ROUNDS (9) of MIB (2048) in buckets
// of 4 MiB, CREDIT (6) of them in flight; WHICH is clear, tls or both.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "transport/acceptor.hpp"
#include "transport/connector.hpp"
#include "transport/tls_stream.hpp"

namespace {

using namespace lockstep;
using clock_type = std::chrono::steady_clock;

constexpr std::size_t bucket_bytes = 4 << 20;
constexpr std::size_t record_bytes = 16 << 10;

void demand(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(what);
}

double gigabytes_per_s(std::size_t bytes, clock_type::time_point begin) {
  return static_cast<double>(bytes) / 1e9 /
         std::chrono::duration<double>(clock_type::now() - begin).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

std::vector<payload> make_payloads(std::size_t count) {
  std::vector<payload> payloads;
  for (std::size_t i = 0; i < count; ++i)
    payloads.emplace_back(std::vector<std::byte>(bucket_bytes, static_cast<std::byte>(i + 1)));
  return payloads;
}

// --- raw sockets

/// A connected pair over loopback.
std::pair<int, int> socket_pair() {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof at;
  demand(bind(listener, reinterpret_cast<sockaddr*>(&at), size) == 0, "bind");
  demand(listen(listener, 1) == 0, "listen");
  getsockname(listener, reinterpret_cast<sockaddr*>(&at), &size);
  const int near = socket(AF_INET, SOCK_STREAM, 0);
  demand(connect(near, reinterpret_cast<sockaddr*>(&at), size) == 0, "connect");
  const int far = accept(listener, nullptr, nullptr);
  close(listener);
  return {near, far};
}

void send_frames(int fd, const std::vector<payload>& payloads, std::size_t count) {
  std::array<std::byte, 64> header{};
  for (std::size_t i = 0; i < count; ++i) {
    const auto& p = payloads[i % payloads.size()];
    std::size_t sent = 0;
    while (sent < header.size() + p.size()) {
      const auto of_head = std::min(sent, header.size());
      const auto of_body = sent - of_head;
      std::array parts{iovec{header.data() + of_head, header.size() - of_head},
                       iovec{const_cast<std::byte*>(p.data()) + of_body, p.size() - of_body}};
      msghdr message{};
      message.msg_iov = parts.data();
      message.msg_iovlen = parts.size();
      const auto more = sendmsg(fd, &message, MSG_NOSIGNAL);
      demand(more > 0, "sendmsg");
      sent += static_cast<std::size_t>(more);
    }
  }
}

void receive_frames(int fd, std::vector<std::vector<std::byte>>& into, std::size_t count) {
  const auto take = [fd](std::byte* at, std::size_t size) {
    while (size > 0) {
      const auto got = recv(fd, at, size, 0);
      demand(got > 0, "recv");
      at += got;
      size -= static_cast<std::size_t>(got);
    }
  };
  std::array<std::byte, 64> header;
  for (std::size_t i = 0; i < count; ++i) {
    take(header.data(), header.size());
    take(into[i % into.size()].data(), bucket_bytes);
  }
}

double raw_round(const std::vector<payload>& payloads, std::size_t count) {
  static std::vector<std::vector<std::byte>> into(payloads.size(),
                                                  std::vector<std::byte>(bucket_bytes));
  const auto [near, far] = socket_pair();
  const auto begin = clock_type::now();
  std::thread sender([&, fd = near] { send_frames(fd, payloads, count); });
  receive_frames(far, into, count);
  const auto rate = gigabytes_per_s(count * bucket_bytes, begin);
  sender.join();
  close(near);
  close(far);
  return rate;
}

// --- the library over blocking sockets

double library_round(const tls_context& context, const std::vector<payload>& payloads,
                     std::size_t count) {
  static std::vector<std::vector<std::byte>> into(payloads.size(),
                                                  std::vector<std::byte>(bucket_bytes));
  const auto [near, far] = socket_pair();
  SSL* const from = SSL_new(context.get());
  SSL* const to = SSL_new(context.get());
  SSL_set_fd(from, near);
  SSL_set_fd(to, far);
  std::thread accepting([&] { demand(SSL_accept(from) == 1, "SSL_accept"); });
  demand(SSL_connect(to) == 1, "SSL_connect");
  accepting.join();
  const auto begin = clock_type::now();
  std::thread sender([&] {
    for (std::size_t i = 0; i < count; ++i) {
      const auto& p = payloads[i % payloads.size()];
      std::size_t written = 0;
      demand(SSL_write_ex(from, p.data(), p.size(), &written) == 1, "SSL_write");
    }
  });
  for (std::size_t i = 0; i < count; ++i)
    for (std::size_t done = 0; done < bucket_bytes;) {
      std::size_t got = 0;
      demand(SSL_read_ex(to, into[i % into.size()].data() + done, bucket_bytes - done, &got) == 1,
             "SSL_read");
      done += got;
    }
  const auto rate = gigabytes_per_s(count * bucket_bytes, begin);
  sender.join();
  SSL_free(from);
  SSL_free(to);
  close(near);
  close(far);
  return rate;
}

// --- channels

class channels {
 public:
  channels(std::shared_ptr<const security> trainer, std::shared_ptr<const security> receiver) {
    greeting self;
    self.role = node_role::trainer;
    self.payload_bytes_max = bucket_bytes;
    acceptor_options options;
    options.self = self;
    std::promise<std::shared_ptr<channel>> accepted;
    std::promise<connect_result> dialed;
    door_ = std::make_unique<acceptor>(
        trainer_io_, std::move(trainer), options,
        [](const greeting&, const std::string&) { return failure{}; },
        [&](std::shared_ptr<channel> c) { accepted.set_value(std::move(c)); });
    connect_options to;
    to.host = "127.0.0.1";
    to.port = door_->port();
    to.self = self;
    to.self.role = node_role::receiver;
    to.self.name = "r0";
    to.self.purpose = channel_purpose::bulk;
    connect(receiver_io_, std::move(receiver), to,
            [&](connect_result r) { dialed.set_value(std::move(r)); });
    const auto result = dialed.get_future().get();
    if (const auto* why = std::get_if<failure>(&result)) throw std::runtime_error(why->detail);
    receiver_ = std::get<std::shared_ptr<channel>>(result);
    trainer_ = accepted.get_future().get();
    // A credit is an empty frame back.
    receiver_->start(
        [this](const bucket_msg& m, std::uint64_t) {
          if (m.bytes.size() == bucket_bytes) receiver_->send({m.env, m.index, {}});
        },
        [](const failure&) {});
    trainer_->start([this](const bucket_msg&, std::uint64_t) { credit(); }, [](const failure&) {});
  }

  ~channels() {
    door_->close();
    trainer_->close();
    receiver_->close();
    receiver_io_.stop();
    trainer_io_.stop();
  }

  double round(const std::vector<payload>& payloads, std::size_t count, std::size_t in_flight) {
    const auto begin = clock_type::now();
    std::unique_lock lock(mutex_);
    payloads_ = &payloads;
    left_ = count;
    unconfirmed_ = count;
    for (std::size_t i = 0; i < in_flight; ++i) send_next();
    demand(done_.wait_for(lock, std::chrono::minutes(1), [this] { return unconfirmed_ == 0; }),
           "a round takes too long");
    return gigabytes_per_s(count * bucket_bytes, begin);
  }

 private:
  void send_next() {
    if (left_ == 0) return;
    --left_;
    demand(trainer_->send(
               {{}, static_cast<std::uint32_t>(left_), (*payloads_)[left_ % payloads_->size()]}),
           "send");
  }

  void credit() {
    const std::lock_guard lock(mutex_);
    --unconfirmed_;
    send_next();
    if (unconfirmed_ == 0) done_.notify_all();
  }

  io_threads trainer_io_;
  io_threads receiver_io_;
  std::unique_ptr<acceptor> door_;
  std::shared_ptr<channel> trainer_;
  std::shared_ptr<channel> receiver_;
  std::mutex mutex_;
  std::condition_variable done_;
  const std::vector<payload>* payloads_ = nullptr;
  std::size_t left_ = 0;
  std::size_t unconfirmed_ = 0;
};

// --- the cipher alone

double cipher_round(std::size_t bytes) {
  const std::array<unsigned char, 16> key{1};
  std::array<unsigned char, 12> nonce{};
  std::vector<unsigned char> in(record_bytes, 7);
  std::vector<unsigned char> out(record_bytes + 16);
  EVP_CIPHER_CTX* const context = EVP_CIPHER_CTX_new();
  EVP_EncryptInit_ex(context, EVP_aes_128_gcm(), nullptr, key.data(), nonce.data());
  const auto begin = clock_type::now();
  for (std::size_t done = 0; done < bytes; done += record_bytes) {
    int size = 0;
    ++nonce[0];
    EVP_EncryptInit_ex(context, nullptr, nullptr, nullptr, nonce.data());
    EVP_EncryptUpdate(context, out.data(), &size, in.data(), static_cast<int>(in.size()));
    EVP_EncryptFinal_ex(context, out.data() + size, &size);
    EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_GET_TAG, 16, out.data() + record_bytes);
  }
  const auto rate = gigabytes_per_s(bytes, begin);
  EVP_CIPHER_CTX_free(context);
  return rate;
}

/// What both ends of a TLS connection need.
struct shared_key {
  std::shared_ptr<const security> guard;
  std::unique_ptr<tls_context> context;
};

shared_key make_shared_key() {
  std::string file = std::filesystem::temp_directory_path() / "transport-bench-XXXXXX";
  const int fd = mkstemp(file.data());
  demand(fd >= 0, "no file for a key");
  std::ofstream(file) << std::string(64, 'a');
  close(fd);
  security_options options;
  options.shared_key_file = file;
  shared_key key{std::make_shared<const security>(options), std::make_unique<tls_context>(options)};
  std::filesystem::remove(file);
  return key;
}

template <class Base, class Ours>
void compare(const char* name, const char* base_name, int rounds, Base base, Ours ours) {
  std::vector<double> bases;
  std::vector<double> rates;
  std::vector<double> ratios;
  base();
  ours();  // warm
  for (int i = 0; i < rounds; ++i) {
    bases.push_back(base());
    rates.push_back(ours());
    ratios.push_back(rates.back() / bases.back());
  }
  std::printf("%-22s %6.2f GB/s   %-16s %6.2f GB/s   ratio %.2f (median of rounds %.2f)\n", name,
              median(rates), base_name, median(bases), median(rates) / median(bases),
              median(ratios));
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) try {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 9;
  const auto count = static_cast<std::size_t>(argc > 2 ? std::atoi(argv[2]) : 2048) / 4;
  const auto credit = static_cast<std::size_t>(argc > 3 ? std::atoi(argv[3]) : 6);
  const std::string which = argc > 4 ? argv[4] : "both";
  const auto payloads = make_payloads(8);
  if (which != "tls") {
    const auto clear = std::make_shared<const security>(security_options{});
    channels link(clear, clear);
    compare(
        "clear", "raw sockets", rounds, [&] { return raw_round(payloads, count); },
        [&] { return link.round(payloads, count, credit); });
  }
  if (which == "clear") return 0;
  const auto key = make_shared_key();
  channels link(key.guard, key.guard);
  compare(
      "TLS", "library", rounds, [&] { return library_round(*key.context, payloads, count); },
      [&] { return link.round(payloads, count, credit); });
  compare(
      "TLS", "AES-128-GCM", rounds, [&] { return cipher_round(count * bucket_bytes); },
      [&] { return link.round(payloads, count, credit); });
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "transport_bench: %s\n", e.what());
  return 1;
}
