// Decides what the device tests are run by where Catch2 is not there: on a bare machine, by
// scripts/gpu-check. Just the macros that they use; one place defines LOCKSTEP_BARE_MAIN.
#pragma once

#include <exception>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

namespace bare {

struct test {
  const char* name;
  void (*run)();
};
inline std::vector<test>& tests() {
  static std::vector<test> all;
  return all;
}
inline std::vector<std::string>& notes() {
  static std::vector<std::string> all;
  return all;
}
inline int& failures() {
  static int count = 0;
  return count;
}
struct registration {
  registration(const char* name, void (*run)()) { tests().push_back({name, run}); }
};
struct note {
  explicit note(std::string text) { notes().push_back(std::move(text)); }
  ~note() { notes().pop_back(); }
};
struct failed : std::exception {};

inline void report(const char* what, const char* file, int line) {
  ++failures();
  std::cerr << file << ":" << line << ": " << what << "\n";
  for (const auto& text : notes()) std::cerr << "  with " << text << "\n";
}

inline int run_all() {
  for (const test& one : tests()) {
    const int before = failures();
    try {
      one.run();
    } catch (const failed&) {
    } catch (const std::exception& error) {
      report(error.what(), one.name, 0);
    }
    std::cout << (failures() == before ? "ok      " : "FAILED  ") << one.name << std::endl;
  }
  std::cout << tests().size() << " tests, " << failures() << " failures" << std::endl;
  return failures() == 0 ? 0 : 1;
}

}  // namespace bare

#define BARE_JOIN_2(a, b) a##b
#define BARE_JOIN(a, b) BARE_JOIN_2(a, b)
#define BARE_TEST(function, name)                                         \
  static void function();                                                 \
  static const bare::registration BARE_JOIN(function, _)(name, function); \
  static void function()
#define TEST_CASE(name) BARE_TEST(BARE_JOIN(bare_test_, __LINE__), name)
#define INFO(text)                                \
  std::ostringstream BARE_JOIN(bare_s, __LINE__); \
  BARE_JOIN(bare_s, __LINE__) << text;            \
  const bare::note BARE_JOIN(bare_n, __LINE__)(BARE_JOIN(bare_s, __LINE__).str())
#define CHECK(...)                                                      \
  do {                                                                  \
    if (!(__VA_ARGS__)) bare::report(#__VA_ARGS__, __FILE__, __LINE__); \
  } while (false)
#define REQUIRE(...)                                  \
  do {                                                \
    if (!(__VA_ARGS__)) {                             \
      bare::report(#__VA_ARGS__, __FILE__, __LINE__); \
      throw bare::failed();                           \
    }                                                 \
  } while (false)
#define CHECK_THROWS_AS(expression, type)                            \
  do {                                                               \
    bool bare_thrown = false;                                        \
    try {                                                            \
      static_cast<void>(expression);                                 \
    } catch (const type&) {                                          \
      bare_thrown = true;                                            \
    }                                                                \
    if (!bare_thrown) bare::report("no " #type, __FILE__, __LINE__); \
  } while (false)
#define CHECK_FALSE(...) CHECK(!(__VA_ARGS__))
#define CHECK_NOTHROW(expression)                          \
  do {                                                     \
    try {                                                  \
      static_cast<void>(expression);                       \
    } catch (const std::exception& bare_error) {           \
      bare::report(bare_error.what(), __FILE__, __LINE__); \
    }                                                      \
  } while (false)
#define FAIL(text)                          \
  do {                                      \
    bare::report(text, __FILE__, __LINE__); \
    throw bare::failed();                   \
  } while (false)

#if defined(LOCKSTEP_BARE_MAIN)
int main() {
  return bare::run_all();
}
#endif
