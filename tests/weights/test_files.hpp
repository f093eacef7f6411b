// Decides how the tests of weights/ make files and look at refusals.
#pragma once

#include <zstd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "messages/errors.hpp"
#include "weights/checkpoint.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep::test {

namespace fs = std::filesystem;

/// A directory of its own, gone with its owner.
class temp_dir {
 public:
  explicit temp_dir(const fs::path& parent = fs::temp_directory_path()) {
    auto name = (parent / "lockstep-weights-XXXXXX").string();
    if (!::mkdtemp(name.data())) throw std::runtime_error("no temporary directory");
    path_ = name;
  }
  temp_dir(const temp_dir&) = delete;
  temp_dir& operator=(const temp_dir&) = delete;
  ~temp_dir() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }
  fs::path operator/(const fs::path& name) const { return path_ / name; }

 private:
  fs::path path_;
};

/// Where files are in memory, if there is such a place: for what syncs them a thousand times.
inline fs::path in_memory() {
  std::error_code missing;
  const fs::path shared = "/dev/shm";
  return fs::is_directory(shared, missing) ? shared : fs::temp_directory_path();
}

inline void put(const fs::path& file, const std::string& bytes) {
  fs::create_directories(file.parent_path());
  std::ofstream out(file, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!out) throw std::runtime_error("cannot write " + file.string());
}

inline std::string get(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

inline std::string length_prefix(std::uint64_t length) {
  std::string text;
  for (int i = 0; i < 8; ++i) text.push_back(static_cast<char>(length >> (8 * i)));
  return text;
}

/// A safetensors file of this header, unpadded, and these data.
inline std::string with_header(const std::string& header, const std::string& data = {}) {
  return length_prefix(header.size()) + header + data;
}

inline std::span<const std::byte> bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}
inline std::string text(std::span<const std::byte> data) {
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

/// All bytes of all tensors, for comparing.
template <tensor_source T>
std::vector<std::string> contents(const T& source) {
  std::vector<std::string> result;
  for (std::size_t i = 0; i < source.shape().count(); ++i) result.push_back(text(source.tensor(i)));
  return result;
}

inline weight_buffer in_memory(const checkpoint& source) {
  weight_buffer result(source.shape());
  result.copy_from(source);
  return result;
}

/// One zstd frame; `known`: with its content size.
inline std::string frame(const std::string& content, bool known = true) {
  std::string out(ZSTD_compressBound(content.size()), '\0');
  auto* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, known ? 1 : 0);
  out.resize(ZSTD_compress2(context, out.data(), out.size(), content.data(), content.size()));
  ZSTD_freeCCtx(context);
  return out;
}

/// Checks that `action` throws `error{code}`, in one line that contains all of `parts`.
template <class Action>
void check_refused(Action&& action, errc code, const std::vector<std::string>& parts) {
  std::optional<error> thrown;
  try {
    action();
  } catch (const error& e) {
    thrown = e;
  }
  REQUIRE(thrown.has_value());
  const std::string what = thrown->what();
  INFO("message: " << what);
  CHECK(to_string(thrown->code()) == to_string(code));
  CHECK(what.find('\n') == std::string::npos);
  for (const auto& part : parts) CHECK_THAT(what, Catch::Matchers::Contains(part));
}

}  // namespace lockstep::test
