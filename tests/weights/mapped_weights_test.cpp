// Weights in a file, in place: what is written to memory is there for the next process.
#include "weights/mapped_weights.hpp"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

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

TEST_CASE("a file that is torn, or another model's, is replaced") {
  const folder f;
  const auto file = f.path / "model.safetensors";
  const auto first = filled(std::byte{1});
  const auto is_replaced = [&] {
    const mapped_weights m(file, shape(), reader_of(first));
    return !m.reused() && same(m, first);
  };
  std::ofstream(file) << "no such file";
  CHECK(is_replaced());
  fs::resize_file(file, fs::file_size(file) - 1);
  CHECK(is_replaced());
  fs::resize_file(file, 0);
  CHECK(is_replaced());
  write_safetensors(file, layout({{"a", dtype::bf16, {3, 5}}}),
                    [&](std::size_t) { return first.tensor(0); });
  CHECK(is_replaced());
  CHECK(mapped_weights(file, shape(), reader_of(first)).reused());
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
