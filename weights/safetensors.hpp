// Decides which bytes are a well-formed safetensors file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "messages/layout.hpp"
#include "weights/file.hpp"
#include "weights/plain_file.hpp"

namespace lockstep {

/// What a file may at most make us hold. Readers take the defaults; tests lower them.
struct file_limits {
  /// Of a header; the reference implementation's limit.
  std::uint64_t header_bytes_max = 100'000'000;
  std::uint64_t index_bytes_max = 64ull << 20;
  /// Tensors, and apart from them metadata entries, of one file; entries of one index.
  std::size_t entry_count_max = 1'000'000;
};

/// Longest tensor name in bytes.
inline constexpr std::size_t tensor_name_bytes_max = 4096;
/// Most extents of one shape; NumPy's limit.
inline constexpr std::size_t tensor_rank_max = 64;

/// The key that holds metadata and so cannot be a tensor's name.
inline constexpr std::string_view metadata_key = "__metadata__";

/// A file's header, checked: every tensor lies inside the data, has the length its dtype and shape
/// give, and together they cover the data without hole or overlap.
struct safetensors_header {
  struct tensor {
    tensor_spec spec;
    std::uint64_t begin = 0;  ///< offsets in bytes into the data
    std::uint64_t end = 0;
  };

  std::vector<tensor> tensors;  ///< ascending by name
  std::map<std::string, std::string> metadata;
  std::uint64_t data_offset = 0;  ///< where in the file the data start, in bytes
};

/// Checks the whole of `file` and returns its header. `path` is for messages. Throws
/// `error{bad_input}` that names the file and, where there is one, the tensor. Memory is bounded by
/// the header's length and the limits above; time is linear but for a sort.
safetensors_header parse_safetensors(std::span<const std::byte> file,
                                     const std::filesystem::path& path,
                                     const file_limits& limits = {});

/// The same of an open file, of which only the header is read.
safetensors_header read_safetensors_header(const plain_file& file, const file_limits& limits = {});

/// A mapped and checked file. Its header was read, not mapped: as long as nobody asks for bytes, a
/// file that is cut short does no harm. Immutable and so thread-safe.
class safetensors_file {
 public:
  explicit safetensors_file(const std::filesystem::path& path);

  const std::filesystem::path& path() const noexcept { return file_.path(); }
  const safetensors_header& header() const noexcept { return header_; }
  const std::map<std::string, std::string>& metadata() const noexcept { return header_.metadata; }

  std::size_t count() const noexcept { return header_.tensors.size(); }
  const tensor_spec& spec(std::size_t index) const { return header_.tensors[index].spec; }
  /// A view of the mapped file.
  std::span<const std::byte> bytes(std::size_t index) const;
  /// Where in the file they begin, in bytes.
  std::uint64_t offset(std::size_t index) const {
    return header_.data_offset + header_.tensors[index].begin;
  }

 private:
  mapped_file file_;
  safetensors_header header_;
};

/// Throws `error{bad_input}` unless the file at `path`, whose header is `file`, holds exactly the
/// tensors `mapped` (ascending), as an index said it would.
void require_mapped(const safetensors_header& file, const std::filesystem::path& path,
                    const std::vector<std::string>& mapped);

}  // namespace lockstep
