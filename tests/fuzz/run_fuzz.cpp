// The bytes are the file that keeps the number of a trainer's last run (`trainer.run_file`).
#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>

#include "actors/run_counter.hpp"
#include "fuzz/fuzz.hpp"
#include "fuzz/refusal.hpp"
#include "fuzz/scratch.hpp"
#include "messages/errors.hpp"
#include "weights/plain_file.hpp"

namespace {

using namespace lockstep;
namespace fs = std::filesystem;

constexpr std::size_t file_bytes_max = 16 << 10;
constexpr auto number_max = UINT64_MAX / 2;

template <class Action>
bool accepted(Action action) {
  return fuzz::accepted({errc::bad_input}, action);
}

/// The number that an accepted file says, read without the reader's shortcuts: 0 if it says none.
std::uint64_t number_in(std::string_view text) {
  constexpr std::string_view before = "lockstep run ";
  constexpr std::size_t hash_digits = 32;
  if (!text.starts_with(before)) return 0;
  text.remove_prefix(before.size());
  const auto digits = text.substr(0, text.find(' '));
  std::uint64_t number = 0;
  const auto [end, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  const bool plain = problem == std::errc() && end == digits.data() + digits.size() &&
                     digits == std::to_string(number);
  const auto rest = text.substr(digits.size());
  const bool whole = rest.size() == hash_digits + 2 && rest.back() == '\n' &&
                     rest.find_first_not_of("0123456789abcdef", 1) == hash_digits + 1;
  return plain && whole ? number : 0;
}

void check(const fs::path& file, std::string_view written) {
  bool taken = false;
  {
    const fuzz::held_bytes bound(8 << 10);
    taken = accepted([&] { const run_counter looks(file); });
  }
  if (!taken) {
    fuzz::demand(read_small(file, file_bytes_max) == written, "what is refused is left as it is");
    fuzz::demand(!accepted([&] { run_counter(file).take(1); }), "and gives no number");
    return;
  }
  const auto last = number_in(written);
  fuzz::demand(last > 0 && last <= number_max, "what is accepted says a number");
  const run_counter counter(file);
  std::uint64_t next = 0;
  if (!accepted([&] { next = counter.take(1, 2); })) {
    fuzz::demand(last + 2 > number_max, "there are numbers up to the last of all");
    fuzz::demand(read_small(file, file_bytes_max) == written, "what is refused is left as it is");
    return;
  }
  fuzz::demand(next == last + 1, "numbers ascend from what the file says");
  fuzz::demand(number_in(read_small(file, file_bytes_max)) == next + 1, "the last one is kept");
  fuzz::demand(next + 1 == number_max || run_counter(file).take(1) == next + 2,
               "no number is given twice");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static fuzz::scratch files;
  files.put("run", fuzz::input_of(data, size));
  check(files.path() / "run", {reinterpret_cast<const char*>(data), size});
  return 0;
}
