#include "apps/observer.hpp"

#include <utility>
#include <variant>

#include "apps/conversation.hpp"
#include "messages/errors.hpp"
#include "messages/printable.hpp"

namespace lockstep {

answer_of_fleet ask_fleet(const settings& options, const std::string& address, question what,
                          std::chrono::milliseconds patience,
                          const std::function<bool()>& told_to_stop) {
  greeting self;
  self.role = node_role::observer;
  self.name = "observer";
  conversation with(options, address, std::move(self), patience, told_to_stop);
  with.say(observe_msg{cluster_id(options.cluster.name), what});
  answer_of_fleet out;
  for (;;) {
    auto m = with.hear();
    if (auto* s = std::get_if<status_line_msg>(&m)) {
      out.states.push_back(std::move(*s));
    } else if (auto* a = std::get_if<audit_line_msg>(&m)) {
      out.audits.push_back(std::move(*a));
    } else if (const auto* f = std::get_if<feed_line_msg>(&m)) {
      out.relays.feeds.push_back(*f);
    } else if (const auto* r = std::get_if<relayed_line_msg>(&m)) {
      out.relays.relayed.push_back(*r);
    } else if (auto* l = std::get_if<failed_line_msg>(&m)) {
      out.failures.push_back(std::move(*l));
    } else if (auto* e = std::get_if<observed_msg>(&m)) {
      out.end = *e;
      return out;
    } else if (const auto* refused = std::get_if<refused_msg>(&m)) {
      throw error(errc::bad_input, address + ": " + printable(refused->detail));
    } else {
      throw error(errc::bad_input, "the trainer answers with " + std::string(name_of(m)));
    }
  }
}

}  // namespace lockstep
