// Decides how TLS is set up from credentials, and what counts as proof of who the peer is.
#pragma once

#include <openssl/ssl.h>

#include <array>
#include <cstdint>
#include <memory>

#include "transport/byte_stream.hpp"
#include "transport/security.hpp"

namespace lockstep {

/// Credentials as they were read once; connections keep those that they began with.
class tls_context {
 public:
  /// Throws `error(errc::bad_setting)` (operator) naming the file and what is wrong with it.
  explicit tls_context(const security_options& options);
  tls_context(const tls_context&) = delete;
  tls_context& operator=(const tls_context&) = delete;
  ~tls_context();

  SSL_CTX* get() const noexcept { return context_.get(); }
  bool has_shared_key() const noexcept { return has_shared_key_; }
  /// A new session that stands for the shared key; null when there is no memory. The caller's.
  SSL_SESSION* shared_key_session(SSL* ssl) const noexcept;

 private:
  struct deleter {
    void operator()(SSL_CTX* context) const noexcept { SSL_CTX_free(context); }
  };

  void use_certificates(const security_options& options);
  void use_shared_key(const security_options& options);

  std::unique_ptr<SSL_CTX, deleter> context_;
  bool has_shared_key_ = false;
  std::array<unsigned char, 32> shared_key_{};
};

/// TLS over `socket`. `accepts`: as the side that was dialed.
std::unique_ptr<byte_stream> make_tls_stream(int socket, std::shared_ptr<const tls_context> context,
                                             bool accepts);

/// What a certificate says of its owner's role; nothing unless it says exactly one thing.
std::optional<identity> identity_of(X509* certificate);

}  // namespace lockstep
