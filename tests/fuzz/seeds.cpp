// fuzz_seeds DIR: makes the seeds in DIR/<target> anew, from tests/data and examples/data.
#include <cstdio>
#include <filesystem>

#include "fuzz/seed_files.hpp"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: fuzz_seeds DIR\n", stderr);
    return 2;
  }
  const std::filesystem::path dir = argv[1];
  using namespace lockstep;
  fuzz::put_file_seeds(dir);
  fuzz::put_host_seeds(dir);
  fuzz::put_follow_seeds(dir);
  fuzz::put_bucket_seeds(dir);
  fuzz::put_text_seeds(dir);
  fuzz::put_wire_seeds(dir);
  fuzz::put_machine_seeds(dir);
  return 0;
}
