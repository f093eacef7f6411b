// Decides which credentials a new connection begins with.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "transport/byte_stream.hpp"
#include "transport/security.hpp"
#include "transport/tls_stream.hpp"

namespace lockstep {

/// What a file was when it was looked at.
struct file_identity {
  std::int64_t seconds = 0;
  std::int64_t nanoseconds = 0;
  std::uint64_t inode = 0;
  std::int64_t size = -1;  ///< -1: not there

  friend bool operator==(const file_identity&, const file_identity&) = default;
};

struct security::impl {
  impl(security_options from, log_function to);

  /// The way to speak over a new connection. May throw `std::bad_alloc`.
  std::unique_ptr<byte_stream> wrap(int socket, bool accepts);

  /// What this process' own certificate says; of certificates only.
  std::optional<identity> own();

  const security_options options;
  const security_mode mode;

 private:
  std::vector<file_identity> look() const;
  std::shared_ptr<const tls_context> current();

  const log_function log_;
  std::mutex mutex_;  // of what follows
  std::vector<file_identity> seen_;
  std::shared_ptr<const tls_context> context_;
};

}  // namespace lockstep
