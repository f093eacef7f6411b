// Decides how messages that wait at an actor are looked at without being taken.
#pragma once

#include <caf/scheduled_actor.hpp>

namespace lockstep::sim {

inline bool has_ended(const caf::abstract_actor& who) {
  return who.getf(caf::abstract_actor::is_terminated_flag);
}

/// The actor behind a handle; null where there is none, it has ended, or is in another process.
inline caf::scheduled_actor* scheduled(const caf::strong_actor_ptr& who) {
  if (!who || has_ended(*who->get())) return nullptr;
  return dynamic_cast<caf::scheduled_actor*>(who->get());
}
template <class Handle>
caf::scheduled_actor* scheduled_of(const Handle& handle) {
  return handle ? scheduled(caf::actor_cast<caf::strong_actor_ptr>(handle)) : nullptr;
}
/// The same of one that was started in this process with this state.
template <class State, class Handle>
caf::scheduled_actor* started(const Handle& handle) {
  if (!handle) return nullptr;
  auto* const actor = caf::actor_cast<caf::abstract_actor*>(handle);
  using pointer = typename Handle::template stateful_pointer<State>;
  return has_ended(*actor) ? nullptr : static_cast<pointer>(actor);
}

/// What a message is, if it is one of this type.
template <class Message>
const Message* content_of(const caf::mailbox_element& m) {
  const auto& content = m.content();
  return content.match_elements<Message>() ? &content.get_as<Message>(0) : nullptr;
}

/// Calls `f` with each message of type `T` that waits at `who`, the oldest first; with those that
/// `from` has sent, if somebody is named. Works where one thread runs one actor at a time.
template <class T, class F>
void each_waiting(caf::scheduled_actor* who, F f, const caf::abstract_actor* from = nullptr) {
  // Looking into the mailbox of an actor that sleeps would take away what wakes it.
  if (who == nullptr || who->mailbox().blocked()) return;
  who->mailbox().fetch_more();
  who->mailbox().queue().peek_all([&](const caf::mailbox_element& e) {
    if (from != nullptr && (!e.sender || e.sender->get() != from)) return;
    const auto& content = e.content();
    if (content.match_elements<T>()) f(content.get_as<T>(0));
  });
}

/// Messages of one type from one actor that wait at another, and which of them came since.
template <class T>
class waiting_at {
 public:
  waiting_at(const caf::abstract_actor& from, caf::scheduled_actor* at)
      : from_(&from), at_(at), kept_(at ? at->ctrl() : nullptr) {
    each_waiting<T>(
        at_, [this](const T&) { ++before_; }, from_);
  }

  /// Calls `f` with each that came since. False: nobody is there any more, so none can be seen.
  template <class F>
  bool each_new(F f) const {
    if (at_ == nullptr || has_ended(*at_)) return false;
    auto left = before_;
    const auto look = [&](const T& m) { return left > 0 ? void(--left) : f(m); };
    each_waiting<T>(at_, look, from_);
    return true;
  }

 private:
  const caf::abstract_actor* from_;
  caf::scheduled_actor* at_;
  caf::strong_actor_ptr kept_;
  std::size_t before_ = 0;
};

}  // namespace lockstep::sim
