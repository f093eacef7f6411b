#include "weights/sparse_frame.hpp"

#include <random>

#include "test_files.hpp"
#include "weights/compressed.hpp"

using namespace lockstep;
using namespace lockstep::test;

namespace {

std::vector<std::byte> sparse(std::size_t size, double density, unsigned seed) {
  std::mt19937 random(seed);
  std::bernoulli_distribution changed(density);
  std::vector<std::byte> out(size);
  for (auto& b : out)
    if (changed(random)) b = static_cast<std::byte>(random());
  return out;
}

std::vector<std::byte> compressed(const std::vector<std::byte>& bytes, std::size_t piece) {
  std::vector<std::byte> out;
  sparse_frame_writer frame(bytes.size());
  for (std::size_t at = 0; at < bytes.size(); at += piece)
    frame.write(std::span(bytes).subspan(at, std::min(piece, bytes.size() - at)), false, out);
  frame.write({}, true, out);
  return out;
}

}  // namespace

TEST_CASE("a frame of repeated zeros is one that every reader takes") {
  constexpr auto piece = sparse_frame_writer::piece_bytes_max;
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, std::size_t{9}, std::size_t{10}, std::size_t{1} << 17,
        (std::size_t{1} << 17) + 1, piece - 1, piece, piece + 5, 3 * piece + 100'000})
    for (const double density : {0.0, 0.0001, 0.02, 0.3, 1.0}) {
      INFO(size << " bytes, density " << density);
      const auto bytes = sparse(size, density, 7);
      const auto frame = compressed(bytes, piece);
      CHECK(ZSTD_getFrameContentSize(frame.data(), frame.size()) == size);
      std::vector<std::byte> whole(size);
      CHECK(decompress_exactly(frame, whole) == "");
      CHECK(whole == bytes);
      // Piece by piece, in a window that does not grow with the content.
      std::vector<std::byte> streamed(size);
      frame_reader reader(std::span<const std::byte>(frame), 20);
      CHECK(reader.read(streamed) == "");
      CHECK(reader.finish() == "");
      CHECK(streamed == bytes);
    }
}

TEST_CASE("it is used for what gets shorter by it") {
  CHECK(sparse_frame_writer::pays(sparse(1 << 17, 0.01, 1)));
  CHECK(sparse_frame_writer::pays(std::vector<std::byte>(1 << 17)));
  // The same bit of every float: the library finds the pattern.
  std::vector<std::byte> regular(1 << 17);
  for (std::size_t i = 0; i < regular.size(); i += 4) regular[i] = std::byte{1};
  CHECK(!sparse_frame_writer::pays(regular));
}
