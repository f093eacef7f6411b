// Decides how tests read the examples of docs/wire-format.md.
#pragma once

#include <fstream>
#include <stdexcept>
#include <string>

#include "tests/kernels/tensors.hpp"
#include "tests/support/places.hpp"

namespace lockstep::kernels {

inline buffer from_hex(const std::string& text) {
  buffer bytes;
  for (std::size_t i = 0; i < text.size(); i += text[i] == ' ' ? 1 : 2)
    if (text[i] != ' ')
      bytes.push_back(static_cast<std::byte>(std::stoi(text.substr(i, 2), nullptr, 16)));
  return bytes;
}

/// The bytes of an example: what stands left of the bars in the block behind `<!-- example: name
/// -->`.
inline buffer documented(const std::string& name) {
  std::ifstream in(test::checkout() / "docs/wire-format.md");
  std::string line;
  while (std::getline(in, line) && line != "<!-- example: " + name + " -->") {
  }
  std::string hex;
  for (int fences = 0; fences < 2 && std::getline(in, line);) {
    if (line == "```")
      ++fences;
    else
      hex += line.substr(0, line.find('|'));
  }
  if (hex.empty()) throw std::runtime_error("docs/wire-format.md has no example " + name);
  return from_hex(hex);
}

}  // namespace lockstep::kernels
