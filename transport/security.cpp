#include "transport/security.hpp"

#include <arpa/inet.h>
#include <sys/stat.h>

#include <array>
#include <string>
#include <utility>

#include "transport/opening.hpp"
#include "transport/security_impl.hpp"

namespace lockstep {

namespace {

security_mode mode_of(const security_options& o) {
  const auto refuse = [](const char* what) { throw error(errc::bad_setting, what); };
  const bool any = !o.certificate_file.empty() || !o.key_file.empty() || !o.authority_file.empty();
  const bool all = !o.certificate_file.empty() && !o.key_file.empty() && !o.authority_file.empty();
  if (!o.shared_key_file.empty() && any) refuse("either certificates or a shared key, not both");
  if (any && !all) refuse("certificates need three files: certificate, key and authority");
  if (all) return security_mode::certificates;
  return o.shared_key_file.empty() ? security_mode::clear : security_mode::shared_key;
}

}  // namespace

std::string_view to_string(security_mode mode) noexcept {
  switch (mode) {
    case security_mode::clear:
      return "clear";
    case security_mode::certificates:
      return "certificates";
    case security_mode::shared_key:
      return "shared_key";
  }
  return "unknown";
}

bool loopback_only(std::string_view host) noexcept {
  if (host == "localhost") return true;
  std::array<char, INET6_ADDRSTRLEN + 1> text{};
  if (host.size() >= text.size()) return false;
  host.copy(text.data(), host.size());
  in_addr v4{};
  if (inet_pton(AF_INET, text.data(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
  in6_addr v6{};
  return inet_pton(AF_INET6, text.data(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

security::impl::impl(security_options from, log_function to)
    : options(std::move(from)), mode(mode_of(options)), log_(std::move(to)) {
  if (mode == security_mode::clear) return;
  seen_ = look();
  context_ = std::make_shared<const tls_context>(options);
}

std::vector<file_identity> security::impl::look() const {
  std::vector<file_identity> stamps;
  for (const auto* file : {&options.certificate_file, &options.key_file, &options.authority_file,
                           &options.shared_key_file}) {
    struct stat info {};
    if (file->empty() || stat(file->c_str(), &info) != 0)
      stamps.emplace_back();
    else
      stamps.push_back(
          {info.st_mtim.tv_sec, info.st_mtim.tv_nsec, info.st_ino, std::int64_t{info.st_size}});
  }
  return stamps;
}

std::shared_ptr<const tls_context> security::impl::current() {
  const std::lock_guard lock(mutex_);
  auto stamps = look();
  if (stamps == seen_) return context_;
  // Not tried again until the files change again, whatever comes of it.
  seen_ = std::move(stamps);
  try {
    context_ = std::make_shared<const tls_context>(options);
    if (log_) log_(log_level::info, "credentials were read again");
  } catch (const error& e) {
    if (log_)
      log_(log_level::error,
           std::string("new credentials are not used, the old ones stay: ") + e.what());
  }
  return context_;
}

std::optional<identity> security::impl::own() {
  return identity_of(SSL_CTX_get0_certificate(current()->get()));
}

std::unique_ptr<byte_stream> security::impl::wrap(int socket, bool accepts) {
  if (mode == security_mode::clear) return make_clear_stream(socket);
  return make_tls_stream(socket, current(), accepts);
}

security_options security_of(const transport_settings& t) {
  return {t.certificate_file, t.key_file, t.authority_file, t.shared_key_file, t.insecure};
}

security::security(security_options options, log_function log)
    : impl_(std::make_unique<impl>(std::move(options), std::move(log))) {}

security::~security() = default;

security_mode security::mode() const noexcept {
  return impl_->mode;
}

void security::check_host(std::string_view host) const {
  if (impl_->mode != security_mode::clear || impl_->options.insecure || loopback_only(host)) return;
  throw error(errc::bad_setting,
              std::string(host) +
                  " can be reached from other machines: that needs certificates, "
                  "a shared key, or consent to clear connections (insecure)");
}

void security::check_own(const greeting& own) const {
  if (impl_->mode != security_mode::certificates) return;
  if (const auto why = check_identity(*this, impl_->own(), own))
    throw error(errc::bad_setting, impl_->options.certificate_file + ": " + why.detail);
}

}  // namespace lockstep
