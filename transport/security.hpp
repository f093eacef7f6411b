// Decides who may speak on a connection: nobody is checked, certificates are, or a shared key is.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "transport/failure.hpp"
#include "transport/greeting.hpp"

namespace lockstep {

/// Where this process's credentials are: three PEM files for certificates, or the shared key, or
/// nothing. All files are read again for new connections once they changed.
struct security_options {
  std::string certificate_file;  ///< own certificate, then the authorities between it and the root
  std::string key_file;          ///< its key; only its owner may read it
  std::string authority_file;    ///< who signs the certificates of the cluster
  std::string shared_key_file;   ///< 64 hexadecimal digits; only its owner may read it
  bool insecure = false;         ///< the operator accepts clear connections off loopback
};

/// What the settings say of them.
security_options security_of(const transport_settings& t);

/// How connections are protected.
enum class security_mode : std::uint8_t {
  clear,         ///< not at all
  certificates,  ///< TLS 1.3; both sides show a certificate that names their role
  shared_key     ///< TLS 1.3; both sides know the key, and any who knows it may play any role
};

std::string_view to_string(security_mode mode) noexcept;

/// Whether `host` can only be reached from this machine: "localhost", 127.0.0.0/8 or ::1. Other
/// names are not looked up and count as reachable.
bool loopback_only(std::string_view host) noexcept;

/// What connections need to prove and check who speaks. Thread-safe. A certificate names its
/// owner's role in a URI of its subject's alternative names: `lockstep:trainer`,
/// `lockstep:receiver/<name>` or `lockstep:observer`.
class security {
 public:
  struct impl;

  /// Reads the files. `log` hears of reloads and of those that failed, which leave in force what
  /// was there. Throws `error(errc::bad_setting)` (operator): contradicting or incomplete options,
  /// a file that cannot be read or used, a secret that others may read; the `try_again_error` among
  /// them where a disk or a file server fails.
  explicit security(security_options options, log_function log = {});
  security(const security&) = delete;
  security& operator=(const security&) = delete;
  ~security();

  security_mode mode() const noexcept;

  /// Throws `error(errc::bad_setting)` where connections of this mode must not leave the machine
  /// and `host` would let them.
  void check_host(std::string_view host) const;

  /// Throws `error(errc::bad_setting)`, naming the certificate's file, where its role or its name
  /// is not what this process says of itself: no peer would believe it.
  void check_own(const greeting& own) const;

  /// For the transport itself.
  impl& internals() const noexcept { return *impl_; }

 private:
  std::unique_ptr<impl> impl_;
};

}  // namespace lockstep
