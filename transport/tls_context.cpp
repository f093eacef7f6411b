#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "messages/transient.hpp"
#include "transport/tls_stream.hpp"

namespace lockstep {

namespace {

constexpr std::size_t secret_bytes_max = 64 << 10;
constexpr std::string_view key_identity = "lockstep";
constexpr unsigned char aes_128_gcm_sha256[] = {0x13, 0x01};

[[noreturn]] void refuse(const std::string& what, int code = 0) {
  throw_refused(errc::bad_setting, what, code);
}

/// `code`: what the system said, as in `errno`.
[[noreturn]] void refuse_call(const std::string& file, int code) {
  refuse(file + ": " + std::generic_category().message(code), code);
}

/// The newest thing that OpenSSL complained of, and forgets the rest.
std::string openssl_reason() {
  const auto code = ERR_peek_last_error();
  ERR_clear_error();
  const char* reason = ERR_reason_error_string(code);
  return reason != nullptr ? reason : "unknown error";
}

[[noreturn]] void refuse_file(const std::string& file) {
  refuse(file + ": " + openssl_reason());
}

/// A file that is open to be read, and is one.
class readable_file {
 public:
  explicit readable_file(const std::string& name) : name_(name) {
    // Non-blocking, or a FIFO without a writer would hold us for ever.
    do {
      fd_ = open(name.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    } while (fd_ < 0 && errno == EINTR);
    if (fd_ < 0) refuse_call(name, errno);
  }
  ~readable_file() { close(fd_); }
  readable_file(const readable_file&) = delete;
  readable_file& operator=(const readable_file&) = delete;

  /// Whose it is, and who may do what with it. Refused where it is no file.
  struct stat info() const {
    struct stat info {};
    if (fstat(fd_, &info) != 0) refuse_call(name_, errno);
    if (!S_ISREG(info.st_mode)) refuse(name_ + ": is not a file");
    return info;
  }

  /// How many bytes were read; 0 at its end.
  std::size_t read(char* to, std::size_t size) {
    for (;;) {
      const auto got = ::read(fd_, to, size);
      if (got >= 0) return static_cast<std::size_t>(got);
      if (errno != EINTR) refuse_call(name_, errno);
    }
  }

 private:
  const std::string& name_;
  int fd_ = -1;
};

/// Bytes that are wiped when they are no longer needed.
struct secret {
  std::vector<char> bytes;

  secret() = default;
  secret(const secret&) = delete;
  secret& operator=(const secret&) = delete;
  ~secret() { OPENSSL_cleanse(bytes.data(), bytes.size()); }
};

/// Whether only root and we can change it, and nobody else is let in who is not named.
bool is_kept(const struct stat& of) noexcept {
  return (of.st_uid == 0 || of.st_uid == geteuid()) && (of.st_mode & (S_IWGRP | S_IRWXO)) == 0;
}

/// Whether it is a credential of systemd's (systemd.exec(5), LoadCredential), which may be root's:
/// a list of access names us then, and what that list allows at most shows as the group's bits, of
/// a group which is root's too. It lies in a directory that is kept like it.
bool is_systemd_credential(const std::string& name, const struct stat& file) {
  const char* const directory = std::getenv("CREDENTIALS_DIRECTORY");
  struct stat its {};
  if (directory == nullptr || stat(directory, &its) != 0) return false;
  std::error_code failed;
  const auto place = std::filesystem::canonical(name, failed).parent_path();
  return !failed && std::filesystem::equivalent(place, directory, failed) && is_kept(its) &&
         is_kept(file) && file.st_gid == 0 && (file.st_mode & S_IXGRP) == 0;
}

/// Reads a file that only its owner may read. What is checked is what is read.
void read_secret(const std::string& name, secret& out) {
  readable_file file(name);
  const auto info = file.info();
  if ((info.st_mode & (S_IRWXG | S_IRWXO)) != 0 && !is_systemd_credential(name, info))
    refuse(name + ": others than its owner may use it; chmod 600");
  out.bytes.resize(secret_bytes_max);
  std::size_t size = 0;
  while (const auto got = file.read(out.bytes.data() + size, out.bytes.size() - size)) {
    size += got;
    if (size == out.bytes.size()) refuse(name + ": is too long");
  }
  out.bytes.resize(size);
}

/// OpenSSL opens files on its own: it would wait for the writer of a FIFO, and does not say that a
/// disk failed.
void require_file(const std::string& name) {
  readable_file file(name);
  (void)file.info();
  std::array<char, 4096> some{};
  while (file.read(some.data(), some.size()) > 0) {
  }
}

int digit_of(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Of the dialer: which key it offers.
int offer_key(SSL* ssl, const EVP_MD* digest, const unsigned char** id, std::size_t* id_size,
              SSL_SESSION** session) {
  *session = nullptr;
  *id = nullptr;
  *id_size = 0;
  if (digest != nullptr && !EVP_MD_is_a(digest, "SHA256")) return 1;
  const auto* context = static_cast<const tls_context*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
  *session = context->shared_key_session(ssl);
  if (*session == nullptr) return 0;
  *id = reinterpret_cast<const unsigned char*>(key_identity.data());
  *id_size = key_identity.size();
  return 1;
}

// Of the acceptor: which key is meant.
int find_key(SSL* ssl, const unsigned char* id, std::size_t id_size, SSL_SESSION** session) {
  *session = nullptr;
  if (std::string_view(reinterpret_cast<const char*>(id), id_size) != key_identity) return 1;
  const auto* context = static_cast<const tls_context*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
  *session = context->shared_key_session(ssl);
  return *session != nullptr ? 1 : 0;
}

// A key that needs a passphrase is refused; nobody is there to be asked.
int no_passphrase(char*, int, int, void*) {
  return -1;
}

}  // namespace

tls_context::tls_context(const security_options& options) {
  ERR_clear_error();
  context_.reset(SSL_CTX_new(TLS_method()));
  auto* const ctx = context_.get();
  if (ctx == nullptr || SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1)
    refuse("TLS 1.3 is not to be had: " + openssl_reason());
  SSL_CTX_set_app_data(ctx, this);
  SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(ctx, 0);
  // Frames know their length, so that an end without TLS's own word for it deceives nobody.
  SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
                               SSL_OP_IGNORE_UNEXPECTED_EOF);
  SSL_CTX_set_mode(ctx, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_max_cert_list(ctx, 16 << 10);
  if (!options.shared_key_file.empty())
    use_shared_key(options);
  else
    use_certificates(options);
}

tls_context::~tls_context() {
  OPENSSL_cleanse(shared_key_.data(), shared_key_.size());
}

void tls_context::use_certificates(const security_options& options) {
  auto* const ctx = context_.get();
  SSL_CTX_set_ciphersuites(
      ctx, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256");
  require_file(options.certificate_file);
  require_file(options.authority_file);
  if (SSL_CTX_use_certificate_chain_file(ctx, options.certificate_file.c_str()) != 1)
    refuse_file(options.certificate_file);
  secret text;
  read_secret(options.key_file, text);
  BIO* const bio = BIO_new_mem_buf(text.bytes.data(), static_cast<int>(text.bytes.size()));
  EVP_PKEY* const key =
      bio != nullptr ? PEM_read_bio_PrivateKey(bio, nullptr, no_passphrase, nullptr) : nullptr;
  BIO_free(bio);
  const bool used = key != nullptr && SSL_CTX_use_PrivateKey(ctx, key) == 1;
  EVP_PKEY_free(key);
  if (!used) refuse_file(options.key_file);
  if (SSL_CTX_check_private_key(ctx) != 1) refuse_file(options.key_file);
  if (SSL_CTX_load_verify_file(ctx, options.authority_file.c_str()) != 1)
    refuse_file(options.authority_file);
  if (!identity_of(SSL_CTX_get0_certificate(ctx)))
    refuse(options.certificate_file +
           ": names no role (URI lockstep:trainer, "
           "lockstep:receiver/NAME or lockstep:observer)");
  SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_verify_depth(ctx, 4);
}

void tls_context::use_shared_key(const security_options& options) {
  auto* const ctx = context_.get();
  secret text;
  read_secret(options.shared_key_file, text);
  auto size = text.bytes.size();
  while (size > 0 && (text.bytes[size - 1] == '\n' || text.bytes[size - 1] == '\r')) --size;
  if (size != 2 * shared_key_.size())
    refuse(options.shared_key_file + ": a shared key is 64 hexadecimal digits");
  for (std::size_t i = 0; i < shared_key_.size(); ++i) {
    const int high = digit_of(text.bytes[2 * i]);
    const int low = digit_of(text.bytes[2 * i + 1]);
    if (high < 0 || low < 0)
      refuse(options.shared_key_file + ": a shared key is 64 hexadecimal digits");
    shared_key_[i] = static_cast<unsigned char>(high << 4 | low);
  }
  has_shared_key_ = true;
  // A key belongs to one hash, SHA-256. There are no certificates: who does not know the key finds
  // nothing to go on with, and a dialer trusts no certificate that is shown to it instead.
  SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256");
  SSL_CTX_set_psk_use_session_callback(ctx, offer_key);
  SSL_CTX_set_psk_find_session_callback(ctx, find_key);
}

SSL_SESSION* tls_context::shared_key_session(SSL* ssl) const noexcept {
  const auto* cipher = SSL_CIPHER_find(ssl, aes_128_gcm_sha256);
  auto* session = SSL_SESSION_new();
  if (session == nullptr) return nullptr;
  if (cipher == nullptr ||
      SSL_SESSION_set1_master_key(session, shared_key_.data(), shared_key_.size()) != 1 ||
      SSL_SESSION_set_cipher(session, cipher) != 1 ||
      SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) != 1) {
    SSL_SESSION_free(session);
    return nullptr;
  }
  return session;
}

}  // namespace lockstep
