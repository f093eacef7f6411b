// Decides what JSON is accepted from files: every value refused unless a reader asked for it.
#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

namespace lockstep {

/// Base of the readers of one JSON text. A derived class overrides the events it has a use for; all
/// others throw `error{bad_input}`. Nothing is stored here, whatever the text holds.
class json_events : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit json_events(const std::filesystem::path& path) : path_(path) {}

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("boolean"); }
  bool number_integer(number_integer_t) override { return unexpected("negative number"); }
  bool number_unsigned(number_unsigned_t) override { return unexpected("number"); }
  bool number_float(number_float_t, const string_t&) override { return unexpected("fraction"); }
  bool string(string_t&) override { return unexpected("string"); }
  bool binary(binary_t&) override { return unexpected("binary"); }
  bool start_object(std::size_t) override { return unexpected("object"); }
  bool end_object() override { return leave(); }
  bool start_array(std::size_t) override { return unexpected("array"); }
  bool end_array() override { return leave(); }
  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::detail::exception& cause) final;

  const std::filesystem::path& path() const noexcept { return path_; }

 protected:
  /// How many objects and arrays are open.
  std::size_t depth() const noexcept { return depth_; }
  bool enter() {
    ++depth_;
    return true;
  }
  bool leave() {
    --depth_;
    return true;
  }
  /// Throws. Returns bool only to fit into the events.
  virtual bool unexpected(std::string_view what);

 private:
  const std::filesystem::path& path_;
  std::size_t depth_ = 0;
};

/// Feeds `text`, which must be one JSON value in UTF-8 and white space, to `events`. Throws
/// `error{bad_input}` that names the file.
void parse_json(std::span<const std::byte> text, json_events& events);

}  // namespace lockstep
