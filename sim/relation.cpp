#include "sim/relation.hpp"

#include <algorithm>

#include "sim/relation_table.hpp"

namespace lockstep::sim {

namespace {

transition_table read_table() {
  transition_table out;
  std::string_view rest = transition_lines;
  while (!rest.empty()) {
    const auto end = std::min(rest.find('\n'), rest.size());
    const auto line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    const auto arrow = line.find(" > ");
    if (line.starts_with('#') || arrow == std::string_view::npos) continue;
    out[std::string(line.substr(0, arrow))].emplace_back(line.substr(arrow + 3));
  }
  return out;
}

}  // namespace

const transition_table& transitions() {
  static const transition_table table = read_table();
  return table;
}

bool allowed(std::string_view from, std::string_view to) {
  const auto it = transitions().find(from);
  return it != transitions().end() &&
         std::find(it->second.begin(), it->second.end(), to) != it->second.end();
}

bool answers_to(round_kind round, reply_kind kind) {
  using k = reply_kind;
  switch (round) {
    case round_kind::attach:
      return kind == k::attached || kind == k::need_full;
    case round_kind::full:
      return kind == k::full_ok || kind == k::full_fail;
    case round_kind::vote:
      return kind == k::vote_yes || kind == k::vote_no;
    case round_kind::commit:
    case round_kind::redo:
      return kind == k::ack || kind == k::nack;
  }
  return false;
}

bool in_doubt(errc reason) {
  return reason == errc::wrong_base || reason == errc::not_serving || reason == errc::torn;
}

std::string reply_word(const reply_msg& m) {
  if (m.kind == reply_kind::vote_no && in_doubt(m.reason)) return "doubt";
  return std::string(to_string(m.kind));
}

}  // namespace lockstep::sim
