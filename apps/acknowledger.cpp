#include "apps/acknowledger.hpp"

#include <utility>
#include <variant>

#include "actors/published_inbox.hpp"
#include "apps/conversation.hpp"

namespace lockstep {

acknowledger::acknowledger(settings options, std::string address, std::string name)
    : options_(std::move(options)), address_(std::move(address)), name_(std::move(name)) {}

void acknowledger::deliver(std::chrono::milliseconds patience) {
  if (!owed_) return;
  greeting self;
  self.role = node_role::receiver;
  self.name = name_;
  conversation with(options_, address_, std::move(self), patience);
  with.say(reply_of(cluster_id(options_.cluster.name), *owed_));
  const auto answer = with.hear();
  const auto* heard = std::get_if<welcome_msg>(&answer);
  if (heard == nullptr || heard->run != owed_->challenge)
    throw error(errc::bad_input,
                address_ + " answers an acknowledgement with " + std::string(name_of(answer)));
  owed_.reset();
}

}  // namespace lockstep
