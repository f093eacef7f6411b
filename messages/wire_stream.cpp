#include "messages/wire_stream.hpp"

namespace lockstep {

void wire_stream::feed(std::span<const std::byte> bytes) {
  if (failed_) return;
  if (begin_ > 0 && begin_ >= buffer_.size() / 2) {
    buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(begin_));
    begin_ = 0;
  }
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
}

std::optional<std::variant<wire_message, wire_failure>> wire_stream::next() {
  if (failed_) return *failed_;
  const auto fail = [this](wire_failure why) {
    failed_ = std::move(why);
    buffer_ = {};
    begin_ = 0;
    return *failed_;
  };
  const auto there = std::span(buffer_).subspan(begin_);
  const auto length = announced_bytes(there);
  if (!length) return std::nullopt;
  if (*length == 0) return fail({errc::bad_frame, "no message, or of another format version"});
  if (*length > bytes_max_) return fail({errc::bad_manifest, "a message above the limit"});
  if (there.size() < *length) return std::nullopt;
  auto read = decode_message(there.first(static_cast<std::size_t>(*length)), limits_);
  if (auto* why = std::get_if<wire_failure>(&read)) return fail(std::move(*why));
  begin_ += static_cast<std::size_t>(*length);
  return read;
}

}  // namespace lockstep
