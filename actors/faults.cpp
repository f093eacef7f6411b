#include "actors/faults.hpp"

#include <array>
#include <charconv>
#include <utility>

namespace lockstep {

namespace {

constexpr std::array<std::pair<fault_kind, std::string_view>, 6> kinds{{
    {fault_kind::stage_fail, "stage-fail"},
    {fault_kind::apply_fail, "apply-fail"},
    {fault_kind::crash, "crash"},
    {fault_kind::corrupt_frame, "corrupt-frame"},
    {fault_kind::no_reply, "no-reply"},
    {fault_kind::false_ok, "false-ok"},
}};

template <class Number>
bool parse_number(std::string_view text, Number& out) {
  const auto* end = text.data() + text.size();
  const auto [rest, failed] = std::from_chars(text.data(), end, out);
  return failed == std::errc{} && rest == end && !text.empty();
}

}  // namespace

std::string_view to_string(fault_kind kind) noexcept {
  for (const auto& [k, name] : kinds)
    if (k == kind) return name;
  return "unknown";
}

std::optional<fault> parse_fault(std::string_view text) {
  const auto at = text.find('@');
  const auto colon = text.find(':', at == std::string_view::npos ? 0 : at);
  if (at == std::string_view::npos || colon == std::string_view::npos) return std::nullopt;
  fault out;
  bool known = false;
  for (const auto& [k, name] : kinds) {
    if (name != text.substr(0, at)) continue;
    out.kind = k;
    known = true;
  }
  if (!known || !parse_number(text.substr(at + 1, colon - at - 1), out.label) ||
      !parse_number(text.substr(colon + 1), out.receiver))
    return std::nullopt;
  return out;
}

std::string to_string(const fault& f) {
  return std::string(to_string(f.kind)) + '@' + std::to_string(f.label) + ':' +
         std::to_string(f.receiver);
}

fault_plan::fault_plan(std::vector<fault> faults) {
  for (const auto& f : faults) planned_.push_back({f, std::nullopt});
}

bool fault_plan::strikes(fault_kind kind, const transfer_ref& what, receiver_id receiver) {
  if (what.full) return false;
  const std::lock_guard lock(mutex_);
  for (auto& p : planned_) {
    if (p.what.kind != kind || p.what.label != what.label || p.what.receiver != receiver) continue;
    if (p.struck && *p.struck != what.txn) continue;
    p.struck = what.txn;
    return true;
  }
  return false;
}

std::vector<fault> fault_plan::left() const {
  const std::lock_guard lock(mutex_);
  std::vector<fault> out;
  for (const auto& p : planned_)
    if (!p.struck) out.push_back(p.what);
  return out;
}

}  // namespace lockstep
