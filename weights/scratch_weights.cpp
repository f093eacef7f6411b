#include "weights/scratch_weights.hpp"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "weights/tensor_windows.hpp"
#include "weights/unwritable.hpp"

namespace lockstep {

namespace fs = std::filesystem;

scratch_weights::scratch_weights(const layout& shape, fs::path dir) : dir_(std::move(dir)) {
  std::size_t windows = 0;
  for (std::size_t i = 0; i < shape.count(); ++i) {
    first_.push_back(windows);
    windows += (shape.bytes(i) + tensor_window_bytes - 1) / tensor_window_bytes;
  }
  written_.resize(windows);
}

std::size_t scratch_weights::window(std::size_t tensor, std::uint64_t at) const {
  return first_[tensor] + at / tensor_window_bytes;
}

bool scratch_weights::read(std::size_t tensor, std::uint64_t at, std::span<std::byte> out) const {
  const auto number = window(tensor, at);
  if (written_[number] == 0) return false;
  file_->read(std::uint64_t{number} * tensor_window_bytes, out);
  return true;
}

void scratch_weights::write(std::size_t tensor, std::uint64_t at,
                            std::span<const std::byte> bytes) {
  std::call_once(opened_, [this] { open(); });
  const auto number = window(tensor, at);
  file_->write(std::uint64_t{number} * tensor_window_bytes, bytes);
  written_[number] = 1;
}

void scratch_weights::open() {
  std::error_code failure;
  if (dir_.empty()) dir_ = fs::temp_directory_path(failure);
  if (failure)
    refuse_write("the directory for temporary files", "cannot be found", failure.value());
  auto name = (dir_ / "lockstep-scratch-XXXXXX").string();
  const int made = ::mkostemp(name.data(), O_CLOEXEC);
  if (made < 0) refuse_write(dir_, "cannot be written to", errno);
  ::close(made);
  try {
    file_.emplace(name, plain_file::access::write);
  } catch (...) {
    ::unlink(name.c_str());
    throw;
  }
  remove_file(name);
}

}  // namespace lockstep
