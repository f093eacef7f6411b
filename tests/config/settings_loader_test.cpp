#include "config/settings_loader.hpp"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>

using namespace lockstep;

namespace {

/// A settings file that lives as long as the test case.
class temporary_file {
 public:
  explicit temporary_file(const std::string& text)
      : path_(std::filesystem::temp_directory_path() /
              ("lockstep-settings-" + std::to_string(::getpid()) + ".toml")) {
    std::ofstream(path_, std::ios::binary) << text;
  }
  ~temporary_file() { std::filesystem::remove(path_); }
  temporary_file(const temporary_file&) = delete;
  temporary_file& operator=(const temporary_file&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

template <class Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const setting_error& e) {
    return e.what();
  }
  return {};
}

/// The error of a file with this text, without the file's name.
std::string file_error(const std::string& text) {
  const temporary_file file(text);
  settings_loader loader;
  auto what = error_of([&] { loader.add_file(file.path()); });
  const auto name = file.path().string();
  if (!what.starts_with(name)) return "unnamed file: " + what;
  return what.substr(name.size());
}

std::string variable_error(const std::string& name, const std::string& value) {
  settings_loader loader;
  return error_of([&] { loader.add_environment({{name, value}}); });
}

std::string override_error(const std::string& assignment) {
  settings_loader loader;
  return error_of([&] { loader.add_override(assignment); });
}

effective_setting effective_of(const settings_loader& loader, std::string_view key) {
  for (const auto& entry : loader.effective())
    if (entry.key == key) return entry;
  FAIL("no effective value of " << key);
  return {};
}

/// A value of the row that is not its default, and fits the defaults of the others.
std::string other_value(const setting_row& row) {
  switch (row.type) {
    case setting_type::integer: {
      const auto initial = std::get<std::uint64_t>(row.initial);
      return std::to_string(initial < row.max ? initial + 1 : initial - 1);
    }
    case setting_type::boolean:
      return std::get<bool>(row.initial) ? "false" : "true";
    case setting_type::text:
      return "other";
    case setting_type::choice:
      return std::string(row.choices.back());
  }
  return {};
}

std::string in_file(const setting_row& row, const std::string& value) {
  const auto dot = row.key.find('.');
  const bool quoted = row.type == setting_type::text || row.type == setting_type::choice;
  return "[" + std::string(row.key.substr(0, dot)) + "]\n" + std::string(row.key.substr(dot + 1)) +
         " = " + (quoted ? '"' + value + '"' : value) + "\n";
}

}  // namespace

TEST_CASE("with no source the defaults are in force") {
  const settings_loader loader;
  const auto s = loader.build();
  const auto all = loader.effective();
  REQUIRE(all.size() == settings_table().size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto& row = settings_table()[i];
    INFO(row.key);
    CHECK(row.load(s) == default_of(row));
    CHECK(all[i].key == row.key);
    CHECK(all[i].value == to_string(default_of(row)));
    CHECK(all[i].unit == row.unit);
    CHECK(all[i].help == row.help);
    CHECK(to_string(all[i].source) == "default");
  }
}

TEST_CASE("every setting can be set from every source") {
  for (const auto& row : settings_table()) {
    INFO(row.key);
    const auto value = other_value(row);
    const auto key = std::string(row.key);
    const auto check = [&](const settings_loader& loader, const std::string& source) {
      CHECK(to_string(row.load(loader.build())) == value);
      CHECK(effective_of(loader, row.key).value == value);
      CHECK(to_string(effective_of(loader, row.key).source) == source);
      for (const auto& entry : loader.effective())
        if (entry.key != row.key) CHECK(entry.source.from == setting_source::kind::defaults);
    };
    const temporary_file file(in_file(row, value));
    settings_loader from_file, from_environment, from_command_line;
    from_file.add_file(file.path());
    check(from_file, file.path().string() + ":2");
    from_environment.add_environment({{environment_name(key), value}});
    check(from_environment, "environment " + environment_name(key));
    from_command_line.add_override(key + "=" + value);
    check(from_command_line, "command line");
  }
}

TEST_CASE("the environment overrides the file and the command line overrides both") {
  const temporary_file file("[sync]\nredo_max = 11\ncommit_resend_max = 12\nmembers_min = 13\n");
  const char* const variables[] = {"PATH=/bin", "LOCKSTEP_SYNC_REDO_MAX=21",
                                   "LOCKSTEP_SYNC_COMMIT_RESEND_MAX=22", nullptr};
  const auto check = [](const settings_loader& loader) {
    const auto s = loader.build();
    CHECK(s.sync.members_min == 13);
    CHECK(s.sync.commit_resend_max == 22);
    CHECK(s.sync.redo_max == 31);
    CHECK(effective_of(loader, "sync.redo_max").source.from == setting_source::kind::command_line);
    CHECK(effective_of(loader, "sync.commit_resend_max").source.where ==
          "LOCKSTEP_SYNC_COMMIT_RESEND_MAX");
  };
  settings_loader in_order;
  in_order.add_file(file.path());
  in_order.add_environment(variables);
  in_order.add_override("sync.redo_max=31");
  check(in_order);
  settings_loader in_reverse;
  in_reverse.add_override("sync.redo_max=31");
  in_reverse.add_environment(variables);
  in_reverse.add_file(file.path());
  check(in_reverse);
}

TEST_CASE("within one source the last value wins") {
  settings_loader loader;
  loader.add_override("sync.redo_max=5");
  loader.add_override("sync.redo_max=6");
  CHECK(loader.build().sync.redo_max == 6);
}

TEST_CASE("an unknown key is an error that names key and place") {
  CHECK(file_error("\n[sync]\nredo_maxx = 1\n") == ":3: sync.redo_maxx is not a setting");
  CHECK(file_error("[synk]\nredo_max = 1\n") == ":1: synk is not a setting");
  CHECK(file_error("redo_max = 1\n") == ":1: redo_max is not a setting");
  CHECK(file_error("[sync.deeper]\nredo_max = 1\n") == ":1: sync.deeper is not a setting");
  CHECK(file_error("[empty]\n") == ":1: empty is not a setting");
  CHECK(variable_error("LOCKSTEP_REDO_MAX", "1") ==
        "environment LOCKSTEP_REDO_MAX: LOCKSTEP_REDO_MAX is not a setting");
  CHECK(override_error("sync.redo=1") == "command line: sync.redo is not a setting");
  CHECK(override_error("=1") == "command line:  is not a setting");
  CHECK(override_error("sync.redo_max") == "command line: sync.redo_max has no \"=value\"");
}

TEST_CASE("variables of other programs are left alone") {
  settings_loader loader;
  CHECK_NOTHROW(loader.add_environment({{"LOCKSTEPPER", "1"}, {"XLOCKSTEP_A", "1"}, {"", ""}}));
  CHECK_NOTHROW(loader.add_environment(static_cast<const char* const*>(nullptr)));
}

TEST_CASE("a wrong type is an error that names key and place") {
  const std::string wanted = "must be an integer from 0 to 1000";
  CHECK(file_error("[sync]\nredo_max = \"1\"") == ":2: sync.redo_max is \"1\", " + wanted);
  CHECK(file_error("[sync]\nredo_max = true") == ":2: sync.redo_max is true, " + wanted);
  CHECK(file_error("[sync]\nredo_max = 1.0") ==
        ":2: sync.redo_max is a floating-point number, " + wanted);
  CHECK(file_error("[sync]\nredo_max = [1]") == ":2: sync.redo_max is an array, " + wanted);
  CHECK(file_error("[sync]\nredo_max.x = 1") == ":2: sync.redo_max is a table, " + wanted);
  CHECK(file_error("[sync]\nredo_max = 1979-05-27") ==
        ":2: sync.redo_max is a date or time, " + wanted);
  CHECK(file_error("[receiver]\nserve_stale = 1") ==
        ":2: receiver.serve_stale is 1, must be true or false");
  CHECK(file_error("[cluster]\nname = 7") ==
        ":2: cluster.name is 7, must be text of 1 to 64 bytes");
  CHECK(file_error("[log]\nlevel = \"loud\"") ==
        ":2: log.level is \"loud\", must be trace, debug, info, warn, error or off");
  CHECK(file_error("sync = 1") == ":1: sync is an integer, must be a table");
  CHECK(file_error("[[sync]]\nredo_max = 1") == ":1: sync is an array, must be a table");
  CHECK(variable_error("LOCKSTEP_RECEIVER_SERVE_STALE", "yes") ==
        "environment LOCKSTEP_RECEIVER_SERVE_STALE: receiver.serve_stale is \"yes\", must be true "
        "or false");
  for (const std::string bad : {"", "x", "1x", " 1", "1 ", "+1", "-1", "0x1", "1.0", "1e3"})
    CHECK(override_error("sync.redo_max=" + bad) ==
          "command line: sync.redo_max is \"" + bad + "\", " + wanted);
}

TEST_CASE("a value out of range is an error at either end, from every source") {
  const std::string wanted = "must be an integer from 1 to 1024";
  for (const std::string bad : {"0", "1025"}) {
    CHECK(file_error("[bucket]\ncredit = " + bad) == ":2: bucket.credit is " + bad + ", " + wanted);
    CHECK(variable_error("LOCKSTEP_BUCKET_CREDIT", bad) ==
          "environment LOCKSTEP_BUCKET_CREDIT: bucket.credit is " + bad + ", " + wanted);
    CHECK(override_error("bucket.credit=" + bad) ==
          "command line: bucket.credit is " + bad + ", " + wanted);
  }
  CHECK(file_error("[bucket]\ncredit = -4") == ":2: bucket.credit is negative, " + wanted);
  CHECK(file_error("[bucket]\ncredit = 4294967297") ==
        ":2: bucket.credit is 4294967297, " + wanted);
  CHECK_FALSE(override_error("bucket.credit=18446744073709551617").empty());
  for (const std::string good : {"1", "1024"}) {
    CHECK(override_error("bucket.credit=" + good).empty());
    CHECK(variable_error("LOCKSTEP_BUCKET_CREDIT", good).empty());
  }
}

TEST_CASE("a source with an error in it changes nothing") {
  const temporary_file file("[sync]\nredo_max = 9\nzzz = 1\n");
  settings_loader loader;
  CHECK_THROWS_AS(loader.add_file(file.path()), setting_error);
  CHECK_THROWS_AS(loader.add_environment({{"LOCKSTEP_BUCKET_CREDIT", "9"}, {"LOCKSTEP_ZZZ", "1"}}),
                  setting_error);
  CHECK(loader.build().sync.redo_max == 2);
  CHECK(loader.build().bucket.credit == 4);
}

TEST_CASE("settings from different sources have to fit each other") {
  settings_loader loader;
  loader.add_override("receiver.lease_ms=400");
  CHECK(error_of([&] { (void)loader.build(); }) ==
        "receiver.ping_ms is 500, must be below receiver.lease_ms, which is 400");
  loader.add_override("receiver.ping_ms=100");
  CHECK_NOTHROW(loader.build());
}

TEST_CASE("a file that is no settings file is an error of one line") {
  CHECK(file_error("[sync]\nredo_max = \n").starts_with(":2: "));
  CHECK(file_error("[sync]\nredo_max = 1\nredo_max = 2\n").starts_with(":3: "));
  CHECK(file_error(std::string("a\0b", 3)).starts_with(":1: "));
  CHECK(file_error("\"a\\nb\" = 1").find('\n') == std::string::npos);
  CHECK(file_error("[log]\nfile = \"a\\nb\"") == ":2: log.file holds a control character");
  CHECK(file_error(std::string(100'000, '[')).size() < 200);
  // The limit itself is allowed.
  std::string long_file((1 << 20) - 1, '#');
  long_file += '\n';
  CHECK(file_error(long_file) == "unnamed file: ");
  CHECK(file_error(long_file + "\n") == ": cannot be read: larger than the 1048576 bytes allowed");

  settings_loader loader;
  CHECK(error_of([&] { loader.add_file("/nonexistent/x.toml"); }) ==
        "/nonexistent/x.toml: cannot be read: No such file or directory");
  CHECK(error_of([&] { loader.add_file("/"); }) == "/: cannot be read: not a regular file");
}

TEST_CASE("what is printed names its sources and reads back") {
  settings_loader loader;
  loader.add_environment({{"LOCKSTEP_LOG_FILE", R"(C:\a "b".log)"}});
  loader.add_override("receiver.serve_stale=true");
  loader.add_override("log.level=info");
  const auto text = settings_toml(loader.effective());
  CHECK(text.find("\n[receiver]\n") != std::string::npos);
  CHECK(text.find("serve_stale = true ") != std::string::npos);
  CHECK(text.find("# command line\n") != std::string::npos);
  CHECK(text.find("# environment LOCKSTEP_LOG_FILE\n") != std::string::npos);
  CHECK(text.find("# ms, default\n") != std::string::npos);

  const temporary_file file(text);
  settings_loader again;
  again.add_file(file.path());
  const auto before = loader.build(), after = again.build();
  for (const auto& row : settings_table()) {
    INFO(row.key);
    CHECK(row.load(before) == row.load(after));
    CHECK(effective_of(again, row.key).source.from == setting_source::kind::file);
  }
}
