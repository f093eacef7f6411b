// Decides where tests find files of the checkout and of the build. One source knows them: what has
// them on its command line is another file to ccache in every checkout.
#pragma once

#include <filesystem>

namespace lockstep::test {

/// The root of the checkout that the tests were built from.
const std::filesystem::path& checkout();
/// The root of the build; the program lies in it as `lockstep`.
const std::filesystem::path& build_tree();

inline std::filesystem::path test_data() {
  return checkout() / "tests" / "data";
}
inline std::filesystem::path example_data() {
  return checkout() / "examples" / "data";
}

}  // namespace lockstep::test
