#include "apps/acknowledger.hpp"

#include <utility>
#include <variant>

#include "actors/published_inbox.hpp"
#include "apps/conversation.hpp"
#include "transport/address.hpp"
#include "transport/security.hpp"

namespace lockstep {

namespace {

greeting greeting_of(const std::string& host) {
  greeting out;
  out.role = node_role::receiver;
  out.name = host;
  return out;
}

}  // namespace

acknowledger::acknowledger(settings options, std::string address, std::string name)
    : options_(std::move(options)), address_(std::move(address)), name_(std::move(name)) {
  // What would fail every time is found before anything is pulled.
  const auto where = parse_address("--connect", address_);
  const security guard(security_of(options_.transport));
  guard.check_host(where.host);
  guard.check_own(greeting_of(name_));
}

void acknowledger::deliver(std::chrono::milliseconds patience,
                           const std::function<bool()>& told_to_stop) {
  if (!owed_) return;
  conversation with(options_, address_, greeting_of(name_), patience, told_to_stop);
  with.say(reply_of(cluster_id(options_.cluster.name), *owed_));
  const auto answer = with.hear();
  const auto* heard = std::get_if<welcome_msg>(&answer);
  if (heard == nullptr || heard->run != owed_->challenge)
    throw error(errc::bad_input,
                address_ + " answers an acknowledgement with " + std::string(name_of(answer)));
  owed_.reset();
}

}  // namespace lockstep
