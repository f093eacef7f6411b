#include "config/settings_table.hpp"

#include <catch2/catch.hpp>
#include <fstream>
#include <set>
#include <sstream>

#include "support/places.hpp"

using namespace lockstep;

namespace {

std::string validation_error(const settings& s) {
  try {
    validate(s);
  } catch (const setting_error& e) {
    return e.what();
  }
  return {};
}

}  // namespace

TEST_CASE("the members' defaults are the table's, and valid") {
  const settings defaults;
  for (const auto& row : settings_table()) {
    INFO(row.key);
    CHECK(row.load(defaults) == default_of(row));
    CHECK(misfit(row, default_of(row)).empty());
  }
  CHECK_NOTHROW(validate(defaults));
}

TEST_CASE("each row has names of its own and says what it is") {
  std::set<std::string> keys, variables;
  std::string section;
  std::set<std::string> sections;
  for (const auto& row : settings_table()) {
    INFO(row.key);
    CHECK(keys.emplace(row.key).second);
    CHECK(variables.insert(environment_name(row.key)).second);
    CHECK(find_setting(row.key) == &row);
    CHECK(std::count(row.key.begin(), row.key.end(), '.') == 1);
    CHECK(row.help.ends_with('.'));
    CHECK(row.help.find('|') == std::string_view::npos);
    CHECK((row.type == setting_type::choice) == !row.choices.empty());
    const std::string own(row.key.substr(0, row.key.find('.')));
    // A section is one block, or the printed file would open its table twice.
    if (own != section) CHECK(sections.insert(own).second);
    section = own;
  }
  CHECK(environment_name("sync.commit_timeout_ms") == "LOCKSTEP_SYNC_COMMIT_TIMEOUT_MS");
  CHECK(find_setting("sync") == nullptr);
  CHECK(find_setting("") == nullptr);
}

TEST_CASE("each row stores into a member of its own, up to both ends of its range") {
  for (const auto& row : settings_table()) {
    INFO(row.key);
    std::vector<setting_value> values;
    switch (row.type) {
      case setting_type::integer:
        values = {row.min, row.max};
        break;
      case setting_type::boolean:
        values = {false, true};
        break;
      case setting_type::text:
        values = {std::string(row.min, 'x'), std::string(row.max, 'x')};
        break;
      case setting_type::choice:
        for (const auto name : row.choices) values.emplace_back(std::string(name));
        break;
    }
    for (const auto& value : values) {
      settings s;
      CHECK(misfit(row, value).empty());
      row.store(s, value);
      CHECK(row.load(s) == value);
      for (const auto& other : settings_table())
        if (&other != &row) CHECK(other.load(s) == default_of(other));
    }
  }
}

TEST_CASE("choices follow their enumerators") {
  settings s;
  find_setting("sync.reseed")->store(s, std::string("all"));
  find_setting("log.level")->store(s, std::string("off"));
  CHECK(s.sync.reseed == reseed_scope::all);
  CHECK(s.log.level == log_level::off);
  find_setting("log.level")->store(s, std::string("trace"));
  CHECK(s.log.level == log_level::trace);
}

TEST_CASE("a value outside the row is refused with what is allowed") {
  const auto& members = *find_setting("sync.members_min");
  CHECK(misfit(members, std::uint64_t{0}) == "is 0, must be an integer from 1 to 65535");
  CHECK(misfit(members, std::uint64_t{65'536}) == "is 65536, must be an integer from 1 to 65535");
  CHECK(misfit(members, std::string("5")) == "is \"5\", must be an integer from 1 to 65535");
  CHECK(misfit(members, true) == "is true, must be an integer from 1 to 65535");
  CHECK(misfit(members, std::uint64_t{65'535}).empty());

  const auto& name = *find_setting("cluster.name");
  CHECK(misfit(name, std::string()) == "is \"\", must be text of 1 to 64 bytes");
  CHECK_FALSE(misfit(name, std::string(65, 'x')).empty());
  CHECK(misfit(name, std::string(64, 'x')).empty());
  CHECK(misfit(name, std::uint64_t{1}) == "is 1, must be text of 1 to 64 bytes");
  CHECK(misfit(name, std::string("a\nb")) == "holds a control character");
  // Each one byte away from UTF-8: cut, overlong, a surrogate, past the last code point.
  for (const auto* text : {"\xff", "\xc3", "\xc3(", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80",
                           "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xe2\x82"})
    CHECK(misfit(name, std::string(text)) == "is not UTF-8");
  for (const auto* text :
       {"\xc3\xa9", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"})
    CHECK(misfit(name, std::string(text)).empty());

  const auto& stale = *find_setting("receiver.serve_stale");
  CHECK(misfit(stale, std::uint64_t{1}) == "is 1, must be true or false");
  const auto& reseed = *find_setting("sync.reseed");
  CHECK(misfit(reseed, std::string("some")) == "is \"some\", must be failed or all");
  CHECK(misfit(reseed, false) == "is false, must be failed or all");
  CHECK(range_text(*find_setting("log.level")) == "trace, debug, info, warn, error or off");
}

TEST_CASE("settings that a program filled itself are checked by name") {
  settings s;
  s.bucket.credit = 0;
  CHECK(validation_error(s) == "bucket.credit is 0, must be an integer from 1 to 1024");
  s = {};
  s.sync.reseed = static_cast<reseed_scope>(7);
  CHECK(validation_error(s) == "sync.reseed is \"\", must be failed or all");
  s = {};
  s.cluster.name.clear();
  CHECK(validation_error(s) == "cluster.name is \"\", must be text of 1 to 64 bytes");
}

TEST_CASE("settings that contradict each other are refused") {
  settings s;
  s.receiver.lease_ms = s.receiver.ping_ms;
  CHECK(validation_error(s) ==
        "receiver.ping_ms is 500, must be below receiver.lease_ms, which is 500");
  ++s.receiver.lease_ms;
  CHECK(validation_error(s).empty());

  s = {};
  s.supervision.backoff_ms = s.supervision.backoff_ms_max + 1;
  CHECK(
      validation_error(s) ==
      "supervision.backoff_ms is 5001, must be at most supervision.backoff_ms_max, which is 5000");
  --s.supervision.backoff_ms;
  CHECK(validation_error(s).empty());

  s = {};
  s.receiver.staged_bytes_max = s.bucket.bytes_max - 1;
  CHECK(validation_error(s) ==
        "bucket.bytes_max is 4194304, must be at most receiver.staged_bytes_max, which is 4194303");
  ++s.receiver.staged_bytes_max;
  CHECK(validation_error(s).empty());
}

TEST_CASE("docs/settings.md is the table") {
  std::ifstream in(test::checkout() / "docs/settings.md", std::ios::binary);
  std::ostringstream page;
  page << in.rdbuf();
  CHECK(page.str() == settings_markdown());
}
