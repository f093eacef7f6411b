#include "weights/redo_log.hpp"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <utility>

#include "messages/ids.hpp"
#include "weights/byte_changes.hpp"
#include "weights/file.hpp"
#include "weights/plain_file.hpp"
#include "weights/stopping.hpp"
#include "weights/workers.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

// A block: number of the file, offset in it, length of the window, length of what follows; then
// runs of a gap, a length and that many new bytes. Numbers of runs in base 128, low digits first.
struct block_head {
  std::uint32_t file;
  std::uint32_t window_bytes;
  std::uint64_t offset;
  std::uint64_t run_bytes;
};
static_assert(sizeof(block_head) == 24);

constexpr std::array<char, 8> magic{'L', 'S', 'R', 'E', 'D', 'O', '1', '\n'};
// Equal bytes between two runs that cost no more than a new run would.
constexpr std::size_t worth_a_run = 2;
constexpr std::size_t run_bytes_max = 3 * redo_log::window_bytes_max;
constexpr std::size_t spare_bytes = 8;

std::byte* put_number(std::byte* out, std::size_t value) {
  for (; value >= 128; value >>= 7) *out++ = static_cast<std::byte>(value | 128);
  *out++ = static_cast<std::byte>(value);
  return out;
}

bool take_number(std::span<const std::byte>& in, std::size_t& value) {
  value = 0;
  for (int shift = 0; shift < 28 && !in.empty(); shift += 7) {
    const auto digit = std::to_integer<std::size_t>(in[0]);
    in = in.subspan(1);
    value |= (digit & 127) << shift;
    if (digit < 128) return true;
  }
  return false;
}

// `out` has room for `length` bytes and `spare_bytes` more. Most runs are of a byte or two.
std::byte* put_bytes(std::byte* out, std::span<const std::byte> from, std::size_t at,
                     std::size_t length) {
  if (length <= spare_bytes && from.size() - at >= spare_bytes)
    std::memcpy(out, from.data() + at, spare_bytes);
  else
    std::memcpy(out, from.data() + at, length);
  return out + length;
}

// `out`, which is moved to the end of what is written, has room for `run_bytes_max` and
// `spare_bytes`.
std::size_t write_runs(std::span<const std::byte> old, std::span<const std::byte> fresh,
                       std::byte*& out) {
  std::size_t differ = 0;
  std::size_t written = 0;  // up to here
  std::size_t begin = 0;    // of the run under way, which is empty at first
  std::size_t end = 0;
  const auto end_run = [&] {
    if (begin == end) return;
    out = put_number(out, begin - written);
    out = put_number(out, end - begin);
    out = put_bytes(out, fresh, begin, end - begin);
    written = end;
  };
  for_each_difference(old, fresh, [&](std::size_t at) {
    ++differ;
    if (begin == end || at - end > worth_a_run) {
      end_run();
      begin = at;
    }
    end = at + 1;
  });
  end_run();
  return differ;
}

bool apply_runs(std::span<const std::byte> runs, std::span<std::byte> window) {
  std::size_t at = 0;
  while (!runs.empty()) {
    std::size_t gap = 0;
    std::size_t length = 0;
    if (!take_number(runs, gap) || !take_number(runs, length)) return false;
    if (gap > window.size() - at || length > window.size() - at - gap || length > runs.size())
      return false;
    at += gap;
    std::copy_n(runs.begin(), length, window.begin() + static_cast<std::ptrdiff_t>(at));
    at += length;
    runs = runs.subspan(length);
  }
  return true;
}

/// Takes the blocks of a log from the front, on several threads.
class redoing {
 public:
  redoing(const fs::path& log, const std::vector<fs::path>& files)
      : in_(log, plain_file::access::read), end_(in_.size()), files_(files), open_(files.size()) {}

  void run() {
    std::vector<std::byte> runs;
    std::vector<std::byte> window;
    try {
      for (block_head head; auto* const file = next(head, runs);) {
        window.resize(head.window_bytes);
        file->read(head.offset, window);
        if (!apply_runs(runs, window)) refuse_log();
        file->write(head.offset, window);
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      at_ = end_;  // nothing for the others
      throw;
    }
  }

  std::uint64_t finish() {
    for (auto& file : open_)
      if (file) file->sync();
    return rewritten_;
  }

 private:
  /// The next block and the file that it is for; null at the end.
  plain_file* next(block_head& head, std::vector<std::byte>& runs) {
    const std::lock_guard lock(mutex_);
    // Where this throws there is nothing for the others: in the middle of a block they would take
    // changes for the next block's head.
    auto at = std::exchange(at_, end_);
    if (at >= end_) return nullptr;
    if (end_ - at < sizeof(head)) refuse_log();
    in_.read(at, std::as_writable_bytes(std::span(&head, 1)));
    at += sizeof(head);
    if (head.file >= files_.size() || head.window_bytes > redo_log::window_bytes_max ||
        head.run_bytes > run_bytes_max || head.run_bytes > end_ - at)
      refuse_log();
    runs.resize(head.run_bytes);
    in_.read(at, runs);
    at += head.run_bytes;
    rewritten_ += head.window_bytes;
    auto& file = open_[head.file];
    if (!file) file.emplace(files_[head.file], plain_file::access::write);
    at_ = at;
    return &*file;
  }

  [[noreturn]] void refuse_log() const { refuse(errc::bad_input, in_.path(), "is damaged"); }

  const plain_file in_;
  const std::uint64_t end_;
  const std::vector<fs::path>& files_;
  std::mutex mutex_;
  std::uint64_t at_ = magic.size();
  std::uint64_t rewritten_ = 0;
  std::vector<std::optional<plain_file>> open_;
};

std::string hex_of(const XXH3_state_t& state) {
  const auto hash = XXH3_128bits_digest(&state);
  return to_string(hash128{hash.high64, hash.low64});
}

}  // namespace

redo_log::redo_log(const fs::path& file)
    : out_(std::make_unique<file_writer>(file)),
      hash_(XXH3_createState(), [](XXH3_state_s* state) { XXH3_freeState(state); }) {
  if (!hash_) throw std::bad_alloc();
  XXH3_128bits_reset(hash_.get());
  out_->write(std::as_bytes(std::span(magic)));
  XXH3_128bits_update(hash_.get(), magic.data(), magic.size());
  bytes_ = magic.size();
}

redo_log::~redo_log() = default;

std::size_t redo_log::add(std::uint32_t file, std::uint64_t offset, std::span<const std::byte> old,
                          std::span<const std::byte> fresh) {
  // A run has at most two bytes of numbers for each that it holds, and is followed by a gap.
  constexpr auto room = sizeof(block_head) + run_bytes_max + spare_bytes;
  thread_local const auto memory = std::make_unique_for_overwrite<std::byte[]>(room);
  auto* end = memory.get() + sizeof(block_head);
  const auto differ = write_runs(old, fresh, end);
  if (differ == 0) return 0;
  const std::span<const std::byte> block(memory.get(), end);
  const block_head head{file, static_cast<std::uint32_t>(old.size()), offset,
                        block.size() - sizeof(block_head)};
  std::memcpy(memory.get(), &head, sizeof(head));
  const std::lock_guard lock(mutex_);
  out_->write(block);
  XXH3_128bits_update(hash_.get(), block.data(), block.size());
  bytes_ += block.size();
  return differ;
}

redo_seal redo_log::seal() {
  out_->commit();
  return {bytes_, hex_of(*hash_)};
}

bool is_sealed(const fs::path& log, const redo_seal& seal, const std::function<bool()>& stopping) {
  if (!stands(log)) return false;
  const plain_file file(log, plain_file::access::read);
  if (file.size() != seal.bytes) return false;
  const std::unique_ptr<XXH3_state_t, void (*)(XXH3_state_t*)> hash(
      XXH3_createState(), [](XXH3_state_t* state) { XXH3_freeState(state); });
  if (!hash) throw std::bad_alloc();
  XXH3_128bits_reset(hash.get());
  std::vector<std::byte> buffer(redo_log::window_bytes_max);
  for (std::uint64_t at = 0; at < seal.bytes;) {
    const auto piece =
        std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), seal.bytes - at));
    heed(stopping, log);
    file.read(at, piece);
    XXH3_128bits_update(hash.get(), piece.data(), piece.size());
    at += piece.size();
  }
  return hex_of(*hash) == seal.digest;
}

std::uint64_t redo(const fs::path& log, const std::vector<fs::path>& files) {
  redoing work(log, files);
  // A log holds a window once, so that blocks may be taken in any order.
  on_workers(workers(), [&] { work.run(); });
  return work.finish();
}

}  // namespace lockstep
