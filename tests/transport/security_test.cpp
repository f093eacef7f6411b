#include "transport/security.hpp"

#include <openssl/ssl.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <sstream>

#include "link.hpp"

namespace lockstep::test {

namespace fs = std::filesystem;

namespace {

const credentials& files() {
  return credentials::of_tests();
}

/// What a TLS client of the library's own comes to see: whether the handshake and then a byte from
/// the acceptor, which answers a greeting, are to be had.
bool client_gets_in(std::uint16_t port, int version_max, const security_options& with) {
  SSL_CTX* const context = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_max_proto_version(context, version_max);
  if (!with.certificate_file.empty()) {
    REQUIRE(SSL_CTX_use_certificate_chain_file(context, with.certificate_file.c_str()) == 1);
    REQUIRE(SSL_CTX_use_PrivateKey_file(context, with.key_file.c_str(), SSL_FILETYPE_PEM) == 1);
  }
  SSL* const ssl = SSL_new(context);
  const int fd = plain_socket(port);
  SSL_set_fd(ssl, fd);
  const auto hello = encode_greeting(receiver_greeting());
  char byte = 0;
  const bool in = SSL_connect(ssl) == 1 &&
                  SSL_write(ssl, hello.data(), static_cast<int>(hello.size())) > 0 &&
                  SSL_read(ssl, &byte, 1) == 1;
  SSL_free(ssl);
  SSL_CTX_free(context);
  close(fd);
  return in;
}

std::string setting_refused(const security_options& options) {
  try {
    const security guard(options);
    return "";
  } catch (const error& e) {
    CHECK(e.code() == errc::bad_setting);
    return e.what();
  }
}

std::string text_of(const fs::path& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

}  // namespace

TEST_CASE("Only certificates of the authority that hold now, in their role, get in") {
  station s(files().guard("trainer"));
  CHECK(refusal_of(s.dial(files().guard("receiver-r0"))).reason == errc::none);
  SECTION("another authority's receiver") {
    CHECK(refusal_of(s.dial(files().guard("other-receiver-r0"))).reason == errc::untrusted);
  }
  SECTION("a receiver that trusts another authority") {
    CHECK(refusal_of(s.dial(files().guard("receiver-r0", "other-ca"))).reason == errc::untrusted);
  }
  SECTION("expired") {
    auto self = receiver_greeting();
    self.name = "expired";
    CHECK(refusal_of(s.dial(files().guard("receiver-expired"), self)).reason == errc::untrusted);
  }
  SECTION("in clear") {
    const auto reason = refusal_of(s.dial(clear())).reason;
    CHECK((reason == errc::dead || reason == errc::bad_frame));
  }
  SECTION("with a shared key") {
    CHECK(refusal_of(s.dial(files().key_guard())).reason == errc::untrusted);
  }
  SECTION("the library's own client") {
    CHECK(client_gets_in(s.door->port(), TLS1_3_VERSION, files().certificates("receiver-r0")));
    CHECK_FALSE(
        client_gets_in(s.door->port(), TLS1_2_VERSION, files().certificates("receiver-r0")));
    CHECK_FALSE(client_gets_in(s.door->port(), TLS1_3_VERSION, {}));
  }
  CHECK(s.arrived.size() <= 2);
}

TEST_CASE("A receiver's or an observer's certificate does not make a trainer") {
  for (const std::string who : {"receiver-r1", "observer", "other-trainer", "receiver-expired"}) {
    CAPTURE(who);
    station s(files().guard(who));
    CHECK(refusal_of(s.dial(files().guard("receiver-r0"))).reason == errc::untrusted);
    CHECK(s.arrived.size() == 0);
  }
}

TEST_CASE("Only the same shared key gets in") {
  station s(files().key_guard());
  CHECK(refusal_of(s.dial(files().key_guard())).reason == errc::none);
  CHECK(refusal_of(s.dial(files().key_guard("other-key"))).reason == errc::untrusted);
  CHECK(refusal_of(s.dial(files().guard("receiver-r0"))).reason == errc::untrusted);
  const auto in_clear = refusal_of(s.dial(clear())).reason;
  CHECK((in_clear == errc::dead || in_clear == errc::bad_frame));
  CHECK_FALSE(client_gets_in(s.door->port(), TLS1_3_VERSION, {}));
  CHECK_FALSE(client_gets_in(s.door->port(), TLS1_3_VERSION, files().certificates("receiver-r0")));
  CHECK(s.arrived.size() == 1);
}

TEST_CASE("Both sides say that their keys may differ") {
  station s(files().key_guard());
  CHECK(refusal_of(s.dial(files().key_guard("other-key")))
            .detail.find("is the shared key the same") != std::string::npos);
  CHECK(s.lines.get().find("is the shared key the same") != std::string::npos);
}

TEST_CASE("A chain of certificates may have 16 KiB or so") {
  const auto dir = files().dir();
  auto options = files().certificates("receiver-r0");
  options.certificate_file = dir / "long-chain.pem";
  const auto dial_with_chain = [&](std::uintmax_t size) {
    std::string chain = text_of(dir / "receiver-r0.pem");
    // In text a certificate is half as long again.
    while (chain.size() < size / 2 * 3) chain += text_of(dir / "ca.pem");
    write_file(options.certificate_file, chain);
    station s(files().guard("trainer"));
    return refusal_of(s.dial(std::make_shared<const security>(options))).reason;
  };
  CHECK(dial_with_chain(13 << 10) == errc::none);
  CHECK(dial_with_chain(18 << 10) == errc::untrusted);
}

TEST_CASE("A dialer with a key or certificates speaks to nobody in clear") {
  station s;
  CHECK(refusal_of(s.dial(files().key_guard())).reason != errc::none);
  CHECK(refusal_of(s.dial(files().guard("receiver-r0"))).reason != errc::none);
  CHECK(s.arrived.size() == 0);
}

TEST_CASE("New connections use files that changed, and old ones where they are of no use") {
  const auto dir = files().dir() / "reload";
  fs::create_directory(dir);
  inbox<std::string> lines;
  security_options options;
  options.shared_key_file = dir / "key";
  write_file(options.shared_key_file, std::string(64, '5'));
  station s(std::make_shared<const security>(
      options, [&](log_level, const std::string& line) { lines.put(line); }));
  CHECK(refusal_of(s.dial(files().key_guard())).reason == errc::none);
  write_file(options.shared_key_file, "half a key");
  CHECK(refusal_of(s.dial(files().key_guard())).reason == errc::none);
  CHECK(lines.get().find("the old ones stay") != std::string::npos);
  CHECK(refusal_of(s.dial(files().key_guard())).reason == errc::none);
  CHECK(lines.size() == 0);  // said once
  write_file(options.shared_key_file, text_of(files().dir() / "other-key"));
  CHECK(refusal_of(s.dial(files().key_guard())).reason == errc::untrusted);
  CHECK(lines.get() == "credentials were read again");
  CHECK(refusal_of(s.dial(files().key_guard("other-key"))).reason == errc::none);
  fs::remove_all(dir);
}

TEST_CASE("Credentials that cannot be used are refused by name") {
  const auto dir = files().dir();
  auto options = files().certificates("trainer");
  options.key_file = dir / "receiver-r0.key";
  CHECK(setting_refused(options).find("receiver-r0.key") != std::string::npos);
  options.key_file = dir / "nowhere";
  CHECK(setting_refused(options).find("nowhere") != std::string::npos);
  options.key_file.clear();
  CHECK(setting_refused(options).find("three files") != std::string::npos);
  CHECK(setting_refused(files().certificates("ca")).find("names no role") != std::string::npos);
  options = files().certificates("trainer");
  options.shared_key_file = dir / "key";
  CHECK(setting_refused(options).find("not both") != std::string::npos);
  for (const int bits : {0640, 0604, 0660}) {
    fs::copy(dir / "trainer.key", dir / "open.key", fs::copy_options::overwrite_existing);
    REQUIRE(chmod((dir / "open.key").c_str(), static_cast<mode_t>(bits)) == 0);
    options = files().certificates("trainer");
    options.key_file = dir / "open.key";
    CHECK(setting_refused(options).find("chmod 600") != std::string::npos);
  }
  write_file(dir / "open-key", std::string(64, '1'), false);
  CHECK(setting_refused(files().shared_key("open-key")).find("chmod 600") != std::string::npos);
  for (const std::string text : {"", "0", "zz", "12345678"}) {
    write_file(dir / "bad-key", text);
    CHECK(setting_refused(files().shared_key("bad-key")).find("64 hexadecimal") !=
          std::string::npos);
  }
  write_file(dir / "bad-key", std::string(65, '1'));
  CHECK_FALSE(setting_refused(files().shared_key("bad-key")).empty());
  write_file(dir / "bad-key", std::string(63, '1') + "g");
  CHECK_FALSE(setting_refused(files().shared_key("bad-key")).empty());
}

TEST_CASE("What systemd hands out may be named in a list of access, and no more") {
  const auto dir = files().dir() / "handed-out";
  fs::create_directory(dir);
  const auto key = dir / "own-key";
  security_options options;
  options.shared_key_file = key;
  const auto refused = [&](const fs::path& file, int bits, int directory_bits = 0550,
                           const char* variable = "CREDENTIALS_DIRECTORY") {
    fs::remove(key);
    write_file(file, std::string(64, '5'));
    if (file != key) fs::create_symlink(file, key);
    REQUIRE(chmod(file.c_str(), static_cast<mode_t>(bits)) == 0);
    REQUIRE(chmod(dir.c_str(), static_cast<mode_t>(directory_bits)) == 0);
    REQUIRE(setenv(variable, dir.c_str(), 1) == 0);
    const auto why = setting_refused(options);
    REQUIRE(unsetenv(variable) == 0);
    REQUIRE(chmod(dir.c_str(), 0700) == 0);
    return why.find("chmod 600") != std::string::npos;
  };
  CHECK(refused(key, 0440) == (getegid() != 0));
  CHECK_FALSE(refused(key, 0400));
  CHECK(refused(key, 0440, 0550, "SOME_DIRECTORY"));
  for (const int bits : {0444, 0460, 0450, 0441}) CHECK(refused(key, bits));
  for (const int bits : {0555, 0570, 0751}) CHECK(refused(key, 0440, bits));
  CHECK(refused(files().dir() / "outside", 0440));
  options.shared_key_file = dir / ".." / "outside";
  CHECK(refused(files().dir() / "outside", 0440));
  options.shared_key_file = key;
  for (const auto& [user, group] : {std::pair{65534u, 0u}, {0u, 50u}}) {
    if (geteuid() != 0) break;
    fs::remove(key);
    write_file(key, std::string(64, '5'));
    REQUIRE(chown(key.c_str(), user, group) == 0);
    REQUIRE(chmod(dir.c_str(), 0550) == 0);
    REQUIRE(chmod(key.c_str(), 0440) == 0);
    REQUIRE(setenv("CREDENTIALS_DIRECTORY", dir.c_str(), 1) == 0);
    CHECK(setting_refused(options).find("chmod 600") != std::string::npos);
    REQUIRE(unsetenv("CREDENTIALS_DIRECTORY") == 0);
  }
  fs::permissions(dir, fs::perms::owner_all);
  fs::remove_all(dir);
}

TEST_CASE("Credentials that are no files are refused, and not waited for") {
  const auto fifo = files().dir() / "fifo";
  fs::remove(fifo);
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  for (const fs::path& what : {fifo, fs::path("/dev/zero"), files().dir()}) {
    for (const auto file : {&security_options::certificate_file, &security_options::key_file,
                            &security_options::authority_file}) {
      auto options = files().certificates("trainer");
      options.*file = what;
      CHECK(setting_refused(options).find(what.string() + ": is not a file") != std::string::npos);
    }
    security_options options;
    options.shared_key_file = what;
    CHECK(setting_refused(options).find(what.string() + ": is not a file") != std::string::npos);
  }
}

TEST_CASE("What is loopback and what is not") {
  for (const std::string host : {"127.0.0.1", "127.9.9.9", "::1", "localhost"})
    CHECK(loopback_only(host));
  for (const std::string host :
       {"0.0.0.0", "::", "10.0.0.1", "example.org", "", "127.0.0.1.example", "128.0.0.1",
        "localhost.example", "::ffff:10.0.0.1"})
    CHECK_FALSE(loopback_only(host));
}

}  // namespace lockstep::test
