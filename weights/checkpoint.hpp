// Decides how a Hugging Face checkpoint is read from disk and written to it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "messages/layout.hpp"
#include "weights/durability.hpp"
#include "weights/weight_buffer.hpp"

namespace lockstep {

class safetensors_file;

/// A checkpoint on disk, memory-mapped and read-only: every file is fully checked before `open`
/// returns, no byte of a tensor is read until it is asked for. Copies share the mapping.
///
/// Thread-safe: all members are const after `open`.
class checkpoint {
 public:
  /// Opens one `.safetensors` file, or a directory that holds `model.safetensors.index.json` and
  /// the shards it names, or `model.safetensors`. Throws `error{bad_input}` on anything malformed,
  /// missing, unreadable or not a regular file, and on a directory that holds a delta; the message
  /// names the file and, where there is one, the tensor.
  static checkpoint open(const std::filesystem::path& path);

  /// The same, and of a directory with neither an index nor `model.safetensors` all files together,
  /// as the ranks of a trainer leave them: a tensor that several of them hold is taken once if it
  /// is the same everywhere, else refused.
  static checkpoint open_ranks(const std::filesystem::path& path);

  /// What one of several ranks has, in the same places: it may be no tensor, but not no file.
  static checkpoint open_rank(const std::filesystem::path& path);

  const layout& shape() const noexcept { return shape_; }

  /// Tells the system that bytes [begin, end) of tensor `index`, which may have been read, are not
  /// needed for now.
  void release(std::size_t index, std::uint64_t begin = 0,
               std::uint64_t end = UINT64_MAX) const noexcept;

  /// Bytes of tensor `index` in canonical order (`index < shape().count()`): a view of the mapped
  /// file, at whatever alignment it has there, valid while any copy of this checkpoint lives.
  std::span<const std::byte> tensor(std::size_t index) const { return tensors_[index]; }

  /// Number of files, the path of each, and where tensor `index` begins: in which file, at which of
  /// its bytes.
  std::size_t file_count() const noexcept { return files_.size(); }
  const std::filesystem::path& file(std::size_t number) const;
  struct place {
    std::size_t file;
    std::uint64_t offset;
  };
  place place_of(std::size_t index) const { return {file_of_[index], offsets_[index]}; }

  /// Throws `error{wrong_layout}` unless this has exactly the tensors, dtypes and shapes of
  /// `expected`; the message names the file and the first tensor that differs.
  void require(const layout& expected) const;

  /// What was opened.
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  void read_files();
  void read_rank_files();
  void take_files();
  void require_tensors() const;

  std::filesystem::path path_;
  layout shape_;
  std::vector<std::span<const std::byte>> tensors_;
  std::vector<std::shared_ptr<const safetensors_file>> files_;
  std::vector<std::size_t> file_of_;  // tensor → its file
  std::vector<std::uint64_t> offsets_;
};

/// What the format allows beside the tensors: the header's `__metadata__`.
using file_metadata = std::map<std::string, std::string>;

/// What Hugging Face loaders expect of a checkpoint of PyTorch tensors.
inline const file_metadata checkpoint_metadata{{"format", "pt"}};

/// Writes all tensors as one file: parent directories made, `<file>.tmp` written and, unless `how`
/// says otherwise, synced, then renamed over `file`; whoever looks sees the old file or the whole
/// new one. Throws `error{unwritable}` that names the file, having removed the temporary;
/// `error{wrong_layout}` if a tensor cannot stand in such a file (its name is not UTF-8, or is
/// `__metadata__`) or `source` returns another length than the layout says.
void write_safetensors(const std::filesystem::path& file, const layout& shape,
                       const tensor_reader& source,
                       const file_metadata& metadata = checkpoint_metadata,
                       durability how = durability::synced);

template <tensor_source T>
void write_safetensors(const std::filesystem::path& file, const T& source,
                       const file_metadata& metadata = checkpoint_metadata) {
  write_safetensors(file, source.shape(), reader_of(source), metadata);
}

}  // namespace lockstep
