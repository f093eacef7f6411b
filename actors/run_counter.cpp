#include "actors/run_counter.hpp"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "kernels/hash.hpp"
#include "messages/ids.hpp"
#include "weights/file.hpp"
#include "weights/file_lock.hpp"
#include "weights/plain_file.hpp"

namespace lockstep {

namespace {

constexpr std::string_view magic = "lockstep run ";
constexpr std::size_t bytes_max = 256;
// Taking a number is a few system calls.
constexpr std::chrono::milliseconds patience(5'000);
// Leaves room for more runs than there will be.
constexpr auto number_max = std::numeric_limits<std::uint64_t>::max() / 2;

/// All of a file that says `number`: one line, and what proves it.
std::string text_of(std::uint64_t number) {
  auto text = std::string(magic) + std::to_string(number) + ' ';
  const auto hash =
      kernels::hash_bytes({reinterpret_cast<const std::byte*>(text.data()), text.size()});
  return text + to_string(hash128{hash.hi, hash.lo}) + '\n';
}

}  // namespace

run_counter::run_counter(std::filesystem::path file)
    : file_(std::move(file)), lock_file_(file_.string() + ".lock") {
  const file_lock lock(lock_file_, patience);
  last();
}

std::uint64_t run_counter::take(std::uint64_t at_least, std::uint64_t count) const {
  const file_lock lock(lock_file_, patience);
  const auto first = std::max(last() + 1, at_least);
  if (first > number_max || count - 1 > number_max - first)
    refuse(errc::bad_input, file_, "there is no later run");
  file_writer out(file_);
  out.write(text_of(first + (count - 1)));
  out.commit();
  return first;
}

/// 0 where no run has been numbered.
std::uint64_t run_counter::last() const {
  if (!stands(file_)) return 0;
  const auto text = read_small(file_, bytes_max);
  std::uint64_t number = 0;
  if (text.starts_with(magic))
    std::from_chars(text.data() + magic.size(), text.data() + text.size(), number);
  // There is one spelling of every number.
  if (number == 0 || number > number_max || text != text_of(number))
    refuse(errc::bad_input, file_, "is damaged, or no file of run numbers");
  return number;
}

}  // namespace lockstep
