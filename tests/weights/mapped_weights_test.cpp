// Weights in a file, in place: what is written to memory is there for the next process.
#include "weights/mapped_weights.hpp"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "messages/errors.hpp"
#include "weights/checkpoint.hpp"

using namespace lockstep;
namespace fs = std::filesystem;

namespace {

struct folder {
  folder() {
    auto name = (fs::temp_directory_path() / "lockstep-mapped-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~folder() { fs::remove_all(path); }
  fs::path path;
};

layout shape() {
  return layout({{"a", dtype::bf16, {3, 5}}, {"b", dtype::u8, {0}}, {"c", dtype::f32, {9}}});
}

weight_buffer filled(std::byte with) {
  weight_buffer out(shape());
  for (std::size_t i = 0; i < 3; ++i)
    for (auto& b : out.tensor(i)) b = with;
  return out;
}

std::string bytes_of_file(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

template <class A, class B>
bool same(const A& a, const B& b) {
  for (std::size_t i = 0; i < 3; ++i)
    if (!std::equal(a.tensor(i).begin(), a.tensor(i).end(), b.tensor(i).begin(), b.tensor(i).end()))
      return false;
  return true;
}

}  // namespace

TEST_CASE("a missing file is made, what is written to it stays, and it is taken up again") {
  const folder f;
  const auto file = f.path / "deep" / "model.safetensors";
  const auto first = filled(std::byte{1}), second = filled(std::byte{2});
  {
    mapped_weights m(file, shape(), reader_of(first));
    CHECK_FALSE(m.reused());
    CHECK(same(m, first));
    for (std::size_t i = 0; i < 3; ++i)
      std::memcpy(m.tensor(i).data(), second.tensor(i).data(), m.tensor(i).size());
  }
  CHECK(same(checkpoint::open(file), second));
  const mapped_weights again(file, shape(), reader_of(first));
  CHECK(again.reused());
  CHECK(same(again, second));
}

TEST_CASE("a file that was made here is replaced where it is torn, and says why") {
  const folder f;
  const auto file = f.path / "model.safetensors";
  const auto first = filled(std::byte{1});
  const auto is_replaced = [&](const std::string& why) {
    const mapped_weights m(file, shape(), reader_of(first));
    INFO(m.replaced());
    CHECK(m.replaced().find(file.string() + ": " + why) == 0);
    return !m.reused() && same(m, first);
  };
  CHECK(mapped_weights(file, shape(), reader_of(first)).replaced().empty());
  fs::resize_file(file, fs::file_size(file) - 1);
  CHECK(is_replaced("tensor 'a' ends"));
  fs::resize_file(file, 0);
  CHECK(is_replaced("is empty"));
  std::ofstream(file) << "no such file";
  CHECK(is_replaced("announces a header"));
  CHECK(mapped_weights(file, shape(), reader_of(first)).reused());
}

TEST_CASE("what was not made here for these tensors is refused, and left as it is") {
  const folder f;
  const auto file = f.path / "model.safetensors";
  const auto first = filled(std::byte{1});
  const auto is_left_alone = [&](errc reason) {
    const auto before = bytes_of_file(file);
    try {
      mapped_weights(file, shape(), reader_of(first));
    } catch (const error& e) {
      return e.code() == reason && bytes_of_file(file) == before &&
             std::string(e.what()).find(file.string()) == 0;
    }
    return false;
  };
  const layout other({{"a", dtype::bf16, {3, 5}}});
  const auto of_other = [&](std::size_t) { return first.tensor(0); };
  std::ofstream(file) << "no such file";
  CHECK(is_left_alone(errc::bad_input));
  write_safetensors(file, other, of_other);
  CHECK(is_left_alone(errc::wrong_layout));
  fs::remove(file);
  mapped_weights(file, other, of_other);
  CHECK(is_left_alone(errc::wrong_layout));
  // Torn, it still is that of another layout.
  fs::resize_file(file, 7);
  CHECK(is_left_alone(errc::bad_input));
  CHECK_FALSE(mapped_weights(file, other, of_other).reused());
  // One from elsewhere is taken up like our own, and from then on is.
  fs::remove(fs::path(file) += ".layout");
  CHECK(mapped_weights(file, other, of_other).reused());
  fs::resize_file(file, 7);
  CHECK_FALSE(mapped_weights(file, other, of_other).reused());
}

TEST_CASE("what is mapped is in place as long as its name leads to it") {
  const folder f;
  const auto base = filled(std::byte{1});
  mapped_weights made(f.path / "w", shape(), reader_of(base));
  CHECK(made.in_place());
  const mapped_weights w(std::move(made));
  CHECK(w.in_place());
  fs::rename(f.path / "w", f.path / "v");
  CHECK_FALSE(w.in_place());
  fs::copy_file(f.path / "v", f.path / "w");
  CHECK_FALSE(w.in_place());
  fs::rename(f.path / "v", f.path / "w");
  CHECK(w.in_place());
  fs::remove_all(f.path);
  CHECK_FALSE(w.in_place());
}

TEST_CASE("what is no regular file is refused, and left as it is") {
  const folder f;
  const auto first = filled(std::byte{1});
  const auto target = f.path / "target";
  mapped_weights(target, shape(), reader_of(first));
  fs::create_symlink(target, f.path / "link");
  CHECK_THROWS_AS(mapped_weights(f.path / "link", shape(), reader_of(first)), error);
  fs::create_directory(f.path / "folder");
  CHECK_THROWS_AS(mapped_weights(f.path / "folder", shape(), reader_of(first)), error);
  CHECK(fs::is_symlink(f.path / "link"));
}
