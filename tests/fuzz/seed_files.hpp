// Decides how seeds are read and written.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "fuzz/fuzz.hpp"
#include "support/places.hpp"

namespace lockstep::fuzz {

inline const std::filesystem::path test_data = test::test_data();
inline const std::filesystem::path example_data = test::example_data();
inline const std::string index_json = "model.safetensors.index.json";
inline const std::string shard = "model-00000-of-00001.safetensors";

inline std::string get(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  demand(in.good(), file.c_str());
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void put(const std::filesystem::path& file, const std::string& text) {
  std::filesystem::create_directories(file.parent_path());
  std::ofstream out(file, std::ios::binary | std::ios::trunc);
  out << text;
  demand(out.good(), file.c_str());
}

inline std::string text_of(const std::vector<std::byte>& b) {
  return {reinterpret_cast<const char*>(b.data()), b.size()};
}

/// Appends a file as the targets of files take it, whose name is one of `names`.
template <class Names>
void add_file(std::string& out, const Names& names, const std::string& name,
              const std::string& contents) {
  const auto at = std::ranges::find(names, name);
  demand(at != names.end() && contents.size() < (1 << 16), name.c_str());
  out.push_back(static_cast<char>(at - names.begin()));
  out.push_back(static_cast<char>(contents.size()));
  out.push_back(static_cast<char>(contents.size() >> 8));
  out += contents;
}

using named_files = std::vector<std::pair<std::string, std::string>>;

template <class Names>
void put_files(const std::filesystem::path& file, const Names& names, const named_files& files) {
  std::string all;
  for (const auto& [name, contents] : files) add_file(all, names, name, contents);
  put(file, all);
}

inline std::string base_model() {
  return get(test_data / "published/adler32/base/model.safetensors");
}

/// A safetensors file of this header over `data` bytes.
inline std::string safetensors_of(const nlohmann::json& header, std::size_t data) {
  const auto text = header.dump();
  std::string out;
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>(text.size() >> (8 * i)));
  return out + text + std::string(data, 'x');
}

// Each makes those of some targets in DIR/<target>: what is right, then what is refused late, comes
// by time, or goes a way that a search takes long to come upon.
void put_file_seeds(const std::filesystem::path& dir);
void put_host_seeds(const std::filesystem::path& dir);
void put_follow_seeds(const std::filesystem::path& dir);
void put_bucket_seeds(const std::filesystem::path& dir);
void put_text_seeds(const std::filesystem::path& dir);
void put_wire_seeds(const std::filesystem::path& dir);
void put_machine_seeds(const std::filesystem::path& dir);

}  // namespace lockstep::fuzz
