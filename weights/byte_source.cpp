#include "weights/byte_source.hpp"

#include <algorithm>

#include "weights/plain_file.hpp"

namespace lockstep {

byte_source byte_source::twin() const {
  if (!file_) return {piece_};
  return {*file_, offset_ - piece_.size(), left()};
}

std::span<const std::byte> byte_source::peek(std::size_t least) {
  constexpr std::size_t piece_bytes = 64 << 10;
  if (piece_.size() >= least || unread_ == 0) return piece_;
  const auto room =
      static_cast<std::size_t>(std::min<std::uint64_t>(std::max(least, piece_bytes), left()));
  const auto kept = piece_.size();
  std::vector<std::byte> grown;
  auto& to = buffer_.size() < room ? grown : buffer_;
  if (&to == &grown) grown.resize(room);
  std::copy(piece_.begin(), piece_.end(), to.begin());  // forward, and never to a later place
  if (&to == &grown) buffer_.swap(grown);
  const auto fresh = std::span(buffer_).subspan(kept, room - kept);
  file_->read(offset_, fresh);
  offset_ += fresh.size();
  unread_ -= fresh.size();
  piece_ = std::span(buffer_).first(room);
  return piece_;
}

}  // namespace lockstep
