#include "weights/checkpoint_index.hpp"

#include <fmt/format.h>

#include <utility>

#include "weights/file.hpp"
#include "weights/json_events.hpp"
#include "weights/plain_file.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

// A plain name of a file beside the index: nothing that leads elsewhere.
bool is_shard_name(std::string_view name) {
  return name.ends_with(".safetensors") && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos;
}

// Writers keep all sorts of things in `metadata` and beside it: a value that is not a string is
// skipped, but its key is kept and its depth counted.
class index_events final : public json_events {
 public:
  index_events(const fs::path& path, std::size_t count_max, checkpoint_index& out)
      : json_events(path), count_max_(count_max), out_(out) {}

  bool null() override { return skip("null"); }
  bool boolean(bool) override { return skip("boolean"); }
  bool number_integer(number_integer_t) override { return skip("number"); }
  bool number_unsigned(number_unsigned_t) override { return skip("number"); }
  bool number_float(number_float_t, const string_t&) override { return skip("number"); }
  bool start_array(std::size_t) override { return skip("array") && open(); }

  bool start_object(std::size_t) override {
    const bool known = depth() == 0 || (depth() == 1 && section_ != section::other);
    if (!known) skip("object");
    return open();
  }

  bool key(std::string& name) override {
    if (depth() == 1) {
      start_section(name);
    } else if (depth() == 2 && section_ != section::other) {
      if (count_++ == count_max_)
        refuse(errc::bad_input, path(), fmt::format("has more than {} entries", count_max_));
      if (!section_keys().try_emplace(name).second)
        refuse(errc::bad_input, path(), fmt::format("has {} twice", in_quotes(name)));
      key_ = name;
    }
    return true;
  }

  bool string(std::string& text) override {
    if (depth() == 2 && section_ == section::weight_map && !is_shard_name(text))
      refuse(errc::bad_input, path(),
             fmt::format("maps tensor {} to {}, which is not the plain name of a .safetensors file",
                         in_quotes(key_), in_quotes(text)));
    if (depth() == 2 && section_ != section::other)
      section_keys()[key_] = std::move(text);
    else
      skip("string");
    return true;
  }

  bool has_weight_map() const noexcept { return seen_map_; }

 private:
  enum class section { other, metadata, weight_map };

  std::map<std::string, std::string>& section_keys() {
    return section_ == section::metadata ? out_.metadata : out_.weight_map;
  }

  void start_section(const std::string& name) {
    section_ = name == "metadata"     ? section::metadata
               : name == "weight_map" ? section::weight_map
                                      : section::other;
    if (section_ == section::other) return;
    if (std::exchange(section_ == section::metadata ? seen_metadata_ : seen_map_, true))
      refuse(errc::bad_input, path(), "has two " + name);
  }

  bool skip(std::string_view what) {
    if (depth() == 0) return unexpected(what);
    if (section_ == section::weight_map) {
      if (depth() == 1) refuse(errc::bad_input, path(), "its weight_map is not an object");
      refuse(errc::bad_input, path(),
             fmt::format("maps tensor {} to something that is not a name", in_quotes(key_)));
    }
    return true;
  }

  bool open() {
    if (depth() == 4) refuse(errc::bad_input, path(), "is nested more than 4 levels deep");
    return enter();
  }

  std::size_t count_max_;
  checkpoint_index& out_;
  section section_ = section::other;
  bool seen_metadata_ = false;
  bool seen_map_ = false;
  std::size_t count_ = 0;
  std::string key_;
};

}  // namespace

std::map<std::string, std::vector<std::string>> checkpoint_index::shards() const {
  std::map<std::string, std::vector<std::string>> result;
  for (const auto& [tensor, shard] : weight_map) result[shard].push_back(tensor);
  return result;
}

bool has_index(const fs::path& dir) {
  return stands(dir / index_name);
}

checkpoint_index parse_index(std::span<const std::byte> text, const fs::path& path,
                             const file_limits& limits) {
  checkpoint_index index;
  index.path = path;
  if (text.size() > limits.index_bytes_max)
    refuse(errc::bad_input, path,
           fmt::format("has {} bytes, the limit is {}", text.size(), limits.index_bytes_max));
  index_events events(index.path, limits.entry_count_max, index);
  parse_json(text, events);
  if (!events.has_weight_map()) refuse(errc::bad_input, path, "has no weight_map");
  return index;
}

checkpoint_index read_index(const fs::path& dir, const file_limits& limits) {
  const auto path = dir / index_name;
  const auto text = read_small(path, limits.index_bytes_max);
  return parse_index(std::as_bytes(std::span(text)), path, limits);
}

std::string metadata_in(const fs::path& dir, std::string_view key) {
  const auto index = read_index(dir);
  const auto at = index.metadata.find(std::string(key));
  return at == index.metadata.end() ? std::string() : at->second;
}

}  // namespace lockstep
