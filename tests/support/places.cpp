#include "support/places.hpp"

namespace lockstep::test {

const std::filesystem::path& checkout() {
  static const std::filesystem::path root = LOCKSTEP_CHECKOUT;
  return root;
}

const std::filesystem::path& build_tree() {
  static const std::filesystem::path root = LOCKSTEP_BUILD_TREE;
  return root;
}

}  // namespace lockstep::test
