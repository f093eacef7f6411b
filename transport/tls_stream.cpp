#include "transport/tls_stream.hpp"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "transport/handshake_bound.hpp"

namespace lockstep {

namespace {

constexpr std::size_t record_bytes = 16 << 10;
/// What is encrypted before it is sent: several records in one call to the system, and what the
/// second-level cache holds.
constexpr std::size_t batch_bytes = 8 * record_bytes;
constexpr std::size_t read_ahead_bytes = 8 * record_bytes;
/// Answers to the peer's requests that it does not read; honest ones are some dozen bytes.
constexpr std::size_t unread_bytes_max = 1 << 20;
/// Bytes under one key, far below what AES-GCM bears (RFC 8446, 5.5).
constexpr std::uint64_t key_bytes_max = 64ull << 30;

/// Between OpenSSL and the socket: what it writes is gathered in memory, and what it reads, five
/// bytes and then a record, is taken from the system in larger pieces. (OpenSSL's own reading ahead
/// moves all that it has ahead for every record.)
class socket_buffer {
 public:
  explicit socket_buffer(int socket) : socket_(socket) {}

  /// Until `trust` reads fail once they are beyond the bound.
  void distrust() { bound_.emplace(); }
  void trust() noexcept { bound_.reset(); }
  bool beyond_bound() const noexcept { return beyond_bound_; }

  /// From now on reads are larger.
  void read_ahead() { in_.resize(read_ahead_bytes); }

  /// As `recv`.
  std::ptrdiff_t read(char* into, std::size_t size) noexcept {
    if (from_ == to_) {
      if (size >= in_.size()) return receive(into, size);
      const auto got = receive(in_.data(), in_.size());
      if (got <= 0) return got;
      from_ = 0;
      to_ = static_cast<std::size_t>(got);
    }
    const auto count = std::min(size, to_ - from_);
    std::memcpy(into, in_.data() + from_, count);
    from_ += count;
    return static_cast<std::ptrdiff_t>(count);
  }

  bool append(const char* data, std::size_t size) noexcept {
    try {
      const auto bytes = std::as_bytes(std::span(data, size));
      out_.insert(out_.end(), bytes.begin(), bytes.end());
      return true;
    } catch (const std::bad_alloc&) {
      return false;
    }
  }

  std::span<const std::byte> unsent() const noexcept { return std::span(out_).subspan(sent_); }

  /// Whether all was sent; otherwise `errno` says why not.
  bool send_all() noexcept {
    while (sent_ < out_.size()) {
      const auto sent = send_gathered(socket_, unsent(), {});
      if (sent < 0) return false;
      sent_ += static_cast<std::size_t>(sent);
    }
    out_.clear();
    sent_ = 0;
    return true;
  }

  bool at_end() const noexcept { return at_end_; }

 private:
  std::ptrdiff_t receive(char* into, std::size_t size) noexcept {
    std::ptrdiff_t got = 0;
    do {
      got = recv(socket_, into, size, MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    at_end_ = got == 0;
    if (got <= 0 || !bound_ || bound_->take({into, static_cast<std::size_t>(got)})) return got;
    beyond_bound_ = true;
    errno = EMSGSIZE;
    return -1;
  }

  const int socket_;
  std::vector<char> in_;
  std::size_t from_ = 0;
  std::size_t to_ = 0;
  bool at_end_ = false;
  std::optional<handshake_bound> bound_;
  bool beyond_bound_ = false;
  std::vector<std::byte> out_;
  std::size_t sent_ = 0;
};

int bio_write(BIO* bio, const char* data, std::size_t size, std::size_t* written) {
  *written = 0;
  if (!static_cast<socket_buffer*>(BIO_get_data(bio))->append(data, size)) return 0;
  *written = size;
  return 1;
}

int bio_read(BIO* bio, char* into, std::size_t size, std::size_t* read) {
  BIO_clear_retry_flags(bio);
  const auto got = static_cast<socket_buffer*>(BIO_get_data(bio))->read(into, size);
  *read = got > 0 ? static_cast<std::size_t>(got) : 0;
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) BIO_set_retry_read(bio);
  return got > 0 ? 1 : 0;
}

long bio_control(BIO* bio, int command, long, void*) {
  if (command == BIO_CTRL_EOF)
    return static_cast<socket_buffer*>(BIO_get_data(bio))->at_end() ? 1 : 0;
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

BIO* make_bio(socket_buffer& buffer) {
  static BIO_METHOD* const method = [] {
    auto* m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "gathered");
    if (m == nullptr) throw std::bad_alloc();
    BIO_meth_set_write_ex(m, bio_write);
    BIO_meth_set_read_ex(m, bio_read);
    BIO_meth_set_ctrl(m, bio_control);
    return m;
  }();
  BIO* const bio = BIO_new(method);
  if (bio == nullptr) throw std::bad_alloc();
  BIO_set_data(bio, &buffer);
  BIO_set_init(bio, 1);
  return bio;
}

/// Whether that is how it ends where the two sides know different keys: on the acceptor's side, and
/// on the dialer's with the alert that OpenSSL sends, and the one that it should.
bool says_other_key(int reason) noexcept {
  return reason == SSL_R_BINDER_DOES_NOT_VERIFY || reason == SSL_R_SSLV3_ALERT_ILLEGAL_PARAMETER ||
         reason == SSL_R_TLSV1_ALERT_DECRYPT_ERROR;
}

class tls_stream final : public byte_stream {
 public:
  tls_stream(int socket, std::shared_ptr<const tls_context> context, bool accepts)
      : socket_(socket),
        context_(std::move(context)),
        buffer_(socket),
        ssl_(SSL_new(context_->get())) {
    if (ssl_ == nullptr) throw std::bad_alloc();
    BIO* const bio = make_bio(buffer_);
    SSL_set_bio(ssl_.get(), bio, bio);
    if (accepts) {
      buffer_.distrust();
      SSL_set_accept_state(ssl_.get());
    } else {
      SSL_set_connect_state(ssl_.get());
      SSL_set_verify(ssl_.get(), SSL_VERIFY_PEER, nullptr);
    }
  }

  io_step handshake() override {
    ERR_clear_error();
    const int code = SSL_do_handshake(ssl_.get());
    if (buffer_.beyond_bound()) return fail(errc::bad_frame, "its handshake is too long");
    const auto step = code == 1 ? io_step{} : result_of(code);
    const auto flushed = flush();
    if (step.status == io_status::end) return fail(errc::dead, "closed during the TLS handshake");
    if (step.status == io_status::failed) return step;
    if (flushed.status != io_status::ok) return flushed;
    if (step.status != io_status::ok) return step;
    // A handshake without the key would have been one with a certificate.
    if (context_->has_shared_key() && SSL_session_reused(ssl_.get()) != 1)
      return fail(errc::untrusted, "the peer does not know the shared key");
    buffer_.trust();
    return {};
  }

  io_step read_some(std::span<std::byte> into) override {
    ERR_clear_error();
    std::size_t total = 0;
    io_step step;
    while (total < into.size()) {
      std::size_t got = 0;
      const int code = SSL_read_ex(ssl_.get(), into.data() + total, into.size() - total, &got);
      if (code != 1) {
        step = result_of(code);
        break;
      }
      total += got;
    }
    // Answers of TLS itself, e.g. a new key.
    if (!buffer_.unsent().empty()) {
      if (buffer_.unsent().size() > unread_bytes_max)
        return fail(errc::bad_frame, "the peer asks without reading the answers");
      if (const auto flushed = flush(); flushed.status == io_status::failed) return flushed;
    }
    if (total > 0) return {io_status::ok, total};
    return step;
  }

  io_step write_some(std::span<const std::byte> head, std::span<const std::byte> body) override {
    if (const auto step = flush(); step.status != io_status::ok) return step;
    ERR_clear_error();
    std::size_t taken = 0;
    if (!head.empty()) {
      // Both in one record.
      std::array<std::byte, record_bytes> record;
      const auto from_head = head.first(std::min(head.size(), record.size()));
      const auto from_body = body.first(std::min(body.size(), record.size() - from_head.size()));
      std::ranges::copy(from_head, record.begin());
      std::ranges::copy(from_body, record.begin() + static_cast<std::ptrdiff_t>(from_head.size()));
      taken = from_head.size() + from_body.size();
      if (const auto step = encrypt(std::span(record).first(taken)); step.status != io_status::ok)
        return step;
      if (from_head.size() < head.size()) return after_encryption(taken);
      body = body.subspan(from_body.size());
    }
    if (!body.empty()) {
      const auto batch = body.first(std::min(body.size(), batch_bytes));
      if (const auto step = encrypt(batch); step.status != io_status::ok) return step;
      taken += batch.size();
    }
    return after_encryption(taken);
  }

  io_step flush() override {
    if (buffer_.send_all()) return {};
    if (errno == EAGAIN || errno == EWOULDBLOCK) return {io_status::want_write, 0};
    return fail(errno == ETIMEDOUT ? errc::timeout : errc::dead,
                std::generic_category().message(errno));
  }

  void finish_writes() override {
    SSL_shutdown(ssl_.get());
    flush();
    shutdown(socket_, SHUT_WR);
  }

  void expect_bulk() override { buffer_.read_ahead(); }

  std::optional<identity> proven() const override {
    if (context_->has_shared_key()) return {};
    const std::unique_ptr<X509, decltype(&X509_free)> certificate(
        SSL_get1_peer_certificate(ssl_.get()), X509_free);
    return certificate ? identity_of(certificate.get()) : std::nullopt;
  }

  bool is_plain() const noexcept override { return false; }

 private:
  struct deleter {
    void operator()(SSL* ssl) const noexcept { SSL_free(ssl); }
  };

  io_step encrypt(std::span<const std::byte> bytes) {
    key_bytes_ += bytes.size();
    if (key_bytes_ > key_bytes_max) {
      key_bytes_ = 0;
      SSL_key_update(ssl_.get(), SSL_KEY_UPDATE_NOT_REQUESTED);
    }
    std::size_t written = 0;
    const int code = SSL_write_ex(ssl_.get(), bytes.data(), bytes.size(), &written);
    if (code == 1) return {};
    const auto step = result_of(code);
    if (step.status == io_status::failed) return step;
    return fail(errc::dead, "the peer ended TLS");
  }

  io_step after_encryption(std::size_t taken) {
    if (const auto step = flush(); step.status == io_status::failed) return step;
    return {io_status::ok, taken};
  }

  io_step result_of(int code) {
    const int saved_errno = errno;
    switch (SSL_get_error(ssl_.get(), code)) {
      case SSL_ERROR_WANT_READ:
        return {io_status::want_read, 0};
      case SSL_ERROR_WANT_WRITE:
        return {io_status::want_write, 0};
      case SSL_ERROR_ZERO_RETURN:
        return {io_status::end, 0};
      case SSL_ERROR_SYSCALL:
        if (saved_errno == 0) return {io_status::end, 0};
        return fail(saved_errno == ETIMEDOUT ? errc::timeout : errc::dead,
                    std::generic_category().message(saved_errno));
      default:
        return fail(errc::untrusted, reason());
    }
  }

  std::string reason() const {
    const auto verdict = SSL_get_verify_result(ssl_.get());
    const auto code = ERR_peek_last_error();
    ERR_clear_error();
    if (ERR_GET_REASON(code) == SSL_R_CERTIFICATE_VERIFY_FAILED && verdict != X509_V_OK)
      return std::string("certificate: ") + X509_verify_cert_error_string(verdict);
    const char* text = ERR_reason_error_string(code);
    return std::string("TLS: ") + (text != nullptr ? text : "failed") +
           (context_->has_shared_key() && says_other_key(ERR_GET_REASON(code))
                ? "; is the shared key the same on both sides?"
                : "");
  }

  int socket_;
  std::shared_ptr<const tls_context> context_;
  socket_buffer buffer_;
  std::unique_ptr<SSL, deleter> ssl_;
  std::uint64_t key_bytes_ = 0;
};

/// What one name of a certificate says.
std::optional<identity> identity_of(std::string_view uri) {
  constexpr std::string_view receiver = "lockstep:receiver/";
  if (uri == "lockstep:trainer") return identity{node_role::trainer, ""};
  if (uri == "lockstep:observer") return identity{node_role::observer, ""};
  if (!uri.starts_with(receiver)) return {};
  const auto name = uri.substr(receiver.size());
  if (name.empty() || name.size() > greeting_name_max) return {};
  return identity{node_role::receiver, std::string(name)};
}

}  // namespace

std::optional<identity> identity_of(X509* certificate) {
  if (certificate == nullptr) return {};
  const std::unique_ptr<GENERAL_NAMES, decltype(&GENERAL_NAMES_free)> names(
      static_cast<GENERAL_NAMES*>(
          X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)),
      GENERAL_NAMES_free);
  std::optional<identity> found;
  for (int i = 0; names && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const auto* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type != GEN_URI) continue;
    const auto* text = name->d.uniformResourceIdentifier;
    const std::string_view uri(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
                               static_cast<std::size_t>(ASN1_STRING_length(text)));
    if (!uri.starts_with("lockstep:")) continue;
    if (found) return {};  // two roles are none
    found = identity_of(uri);
    if (!found) return {};
  }
  return found;
}

std::unique_ptr<byte_stream> make_tls_stream(int socket, std::shared_ptr<const tls_context> context,
                                             bool accepts) {
  return std::make_unique<tls_stream>(socket, std::move(context), accepts);
}

}  // namespace lockstep
