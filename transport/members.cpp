#include "transport/members.hpp"

#include <fnmatch.h>

#include <algorithm>
#include <charconv>

#include "config/settings.hpp"
#include "messages/printable.hpp"

namespace lockstep {

member_list::member_list(std::string_view key, std::string_view text) {
  if (text.empty()) return;
  const auto fail = [&](const char* what) {
    return setting_error(std::string(key) + " is \"" + printable(text) + "\": " + what);
  };
  for (std::size_t begin = 0; begin <= text.size();) {
    const auto comma = std::min(text.find(',', begin), text.size());
    const auto one = text.substr(begin, comma - begin);
    begin = comma + 1;
    // The last one: a name may have such a sign too.
    const auto sign = std::min(one.rfind('='), one.size());
    entry e{std::string(one.substr(0, sign)), {}};
    if (e.pattern.empty()) throw fail("a name is missing; it must be NAME or NAME=ID, with commas");
    if (sign < one.size()) {
      const auto id = one.substr(sign + 1);
      const auto end = id.data() + id.size();
      const auto [stop, problem] = std::from_chars(id.data(), end, e.id.emplace());
      if (id.empty() || problem != std::errc() || stop != end)
        throw fail("what stands after = must be an id, 0 to 4294967295");
      if (std::ranges::count(entries_, e.id, &entry::id) != 0)
        throw fail("two names have the same id");
    }
    entries_.push_back(std::move(e));
  }
}

bool member_list::admits(std::string_view name, receiver_id id) const {
  if (entries_.empty()) return true;
  const auto owned = std::ranges::count(entries_, std::optional(id), &entry::id) != 0;
  return std::ranges::any_of(entries_, [&](const entry& e) {
    const bool fits = e.id ? *e.id == id : !owned;
    return fits && ::fnmatch(e.pattern.c_str(), std::string(name).c_str(), 0) == 0;
  });
}

}  // namespace lockstep
