// Decides what published encodings are called on the command line.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "weights/published.hpp"

namespace lockstep {

/// Adds an option `name` that sets `scheme`, of which "xor" is what stands there if it is not
/// given.
inline CLI::Option* add_scheme_option(CLI::App& command, const std::string& name,
                                      published_encoding& scheme) {
  scheme = published_encoding::xored;
  const auto set = [&scheme](const std::string& text) {
    scheme = text == "overwrite" ? published_encoding::overwrite
             : text == "coded"   ? published_encoding::coded
                                 : published_encoding::xored;
  };
  return command
      .add_option_function<std::string>(name, set,
                                        "xor and overwrite are read by others, coded by us alone")
      ->check(CLI::IsMember({"xor", "overwrite", "coded"}))
      ->default_str("xor");
}

}  // namespace lockstep
