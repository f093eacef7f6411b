#include "sim/connections.hpp"

#include <algorithm>
#include <caf/make_actor.hpp>
#include <caf/send.hpp>

#include "kernels/hash.hpp"

namespace lockstep::sim {

using std::chrono::microseconds;
using std::chrono::milliseconds;

namespace {

/// What is lost or damaged is sent again after so long.
constexpr milliseconds again_after{200};
/// Of so many that are struck one ends its connection.
constexpr std::uint64_t one_ends_of = 16;
/// How long dialing takes where nobody answers.
constexpr milliseconds dialing_max{5'000};

}  // namespace

/// What actors of one end hold in place of those of the other.
class connections::proxy final : public caf::actor_proxy {
 public:
  proxy(caf::actor_config& cfg, connections& of, std::weak_ptr<connection> c, bool at_rank)
      : caf::actor_proxy(cfg), of_(of), connection_(std::move(c)), at_rank_(at_rank) {}

  void enqueue(caf::mailbox_element_ptr what, caf::execution_unit*) override {
    const auto c = connection_.lock();
    if (!c || c->of(at_rank_).closed) return;
    const auto sender = what->sender;
    of_.say(c, at_rank_, sender, what->move_content_to_message());
  }
  void kill_proxy(caf::execution_unit* host, caf::error reason) override {
    cleanup(std::move(reason), host);
  }

 private:
  connections& of_;
  std::weak_ptr<connection> connection_;
  bool at_rank_;
};

connections::connections(scheduler& on, dice& chance, trace& log, directory& who, network& cables,
                         milliseconds silence_max, std::uint64_t seed)
    : scheduler_(on),
      dice_(chance),
      trace_(log),
      directory_(who),
      network_(cables),
      silence_max_(silence_max),
      random_(mix(seed, 0xc0ec)) {}

connections::~connections() = default;

std::size_t connections::under_way() const noexcept {
  std::size_t out = 0;
  for (const auto& c : all_) out += c->rank.letters.size() + c->coordinator.letters.size();
  return out;
}

// --- how they begin -----------------------------------------------------------------------------

bool connections::can_reach(endpoint from, endpoint to) {
  return directory_.is_up(from) && directory_.is_up(to) && !directory_.is_still(to) &&
         !network_.is_cut(from, to) && !network_.is_cut(to, from);
}

void connections::dial(endpoint rank, endpoint coordinator, const rank_actor& me) {
  // There and back, and again for who either is.
  const auto takes = microseconds(400 + random_.below(3'600));
  const auto weak = caf::actor_cast<caf::actor_addr>(me);
  scheduler_.in(takes, [this, rank, coordinator, weak] {
    const auto who = caf::actor_cast<rank_actor>(weak);
    if (!who) return;
    if (can_reach(rank, coordinator)) return connect(rank, coordinator, who);
    const bool refused = directory_.is_up(rank) && !directory_.is_up(coordinator);
    scheduler_.in(refused ? milliseconds(0) : dialing_max, [weak] {
      if (const auto still = caf::actor_cast<rank_actor>(weak))
        caf::anon_send(still, rank_dialed{{}, {errc::unreachable, "nobody answers"}});
    });
  });
}

void connections::connect(endpoint rank, endpoint coordinator, const rank_actor& me) {
  auto c = std::make_shared<connection>();
  c->number = ++number_;
  c->rank.owner = rank;
  c->coordinator.owner = coordinator;
  auto& system = scheduler_.system();
  for (const bool at_rank : {true, false}) {
    caf::actor_config cfg;
    c->of(at_rank).handle = caf::make_actor<proxy, caf::strong_actor_ptr>(
        system.next_actor_id(), system.node(), &system, cfg, *this, std::weak_ptr(c), at_rank);
  }
  all_.push_back(c);
  trace_.line(trace_level::steps, [&] {
    return directory_.name_of(rank) + " is linked to " + directory_.name_of(coordinator);
  });
  caf::anon_send(me, rank_dialed{caf::actor_cast<coordinator_link_actor>(c->rank.handle), {}});
}

// --- what crosses them --------------------------------------------------------------------------

void connections::say(const shared& c, bool at_rank, const caf::strong_actor_ptr& sender,
                      const caf::message& content) {
  using f = fault_id;
  auto& mine = c->of(at_rank);
  const auto to = c->of(!at_rank).owner;
  if (!directory_.is_up(mine.owner)) return;
  if (content.match_elements<caf::exit_msg>()) {
    close(c, at_rank);
    return finish(c);
  }
  auto m = wire_of(content);
  if (!m) return;
  const auto* task = std::get_if<shard_task_msg>(&*m);
  if (task && task->what != shard_task::digests) c->asker = caf::actor_cast<caf::actor>(sender);
  if (!c->up) return;
  const auto now = scheduler_.now();
  letter l{now, now + microseconds(100 + random_.below(900)), encode_message(*m)};
  trace_.fold(kernels::hash_bytes({l.bytes.data(), l.bytes.size()}).lo);
  l.arrives += network_.slowness(mine.owner, to);
  if (dice_.strikes(f::delay)) l.arrives += milliseconds(dice_.below(f::delay, 3'000));
  for (const auto id : {f::lose, f::flip, f::truncate}) {
    if (!dice_.strikes(id)) continue;
    if (dice_.below(id, one_ends_of) == 0) return finish(c);
    l.arrives += again_after;
  }
  if (!mine.letters.empty()) l.arrives = std::max(l.arrives, mine.letters.back().arrives);
  mine.letters.push_back(std::move(l));
  pump(c, at_rank);
}

void connections::pump(const shared& c, bool at_rank) {
  auto& from = c->of(at_rank);
  if (from.pumping || from.letters.empty()) return;
  from.pumping = true;
  scheduler_.at(from.letters.front().arrives, [this, c, at_rank] {
    auto& mine = c->of(at_rank);
    const auto& other = c->of(!at_rank);
    mine.pumping = false;
    if (!c->up || mine.letters.empty()) return;
    const auto now = scheduler_.now();
    auto& first = mine.letters.front();
    if (network_.is_cut(mine.owner, other.owner)) {
      if (now - first.sent >= silence_max_) return finish(c);
      first.arrives = now + again_after / 2;
      return pump(c, at_rank);
    }
    const auto l = std::move(first);
    mine.letters.pop_front();
    hand_in(c, at_rank, l);
    pump(c, at_rank);
  });
}

/// As the links of actors/rank_links.cpp do.
void connections::hand_in(const shared& c, bool at_rank, const letter& l) {
  const auto& there = c->of(!at_rank);
  trace_.fold(c->number);
  if (there.closed || !directory_.is_up(there.owner)) return;
  auto read = decode_message(l.bytes);
  auto* m = std::get_if<wire_message>(&read);
  if (!m) return finish(c);
  trace_.line(trace_level::steps, [&] {
    return directory_.name_of(c->of(at_rank).owner) + " to " + directory_.name_of(there.owner) +
           ": " + describe(*m);
  });
  const auto supervisor = directory_.resolve({there.owner, role::supervisor, 0});
  const auto asker = caf::actor_cast<caf::strong_actor_ptr>(c->asker);
  const bool is_answer = at_rank && std::holds_alternative<shard_result_msg>(*m);
  const auto& target = is_answer ? asker : supervisor;
  if (!target) return;
  std::visit(
      [&](auto& x) {
        target->get()->enqueue(
            caf::make_mailbox_element(there.handle, caf::make_message_id(), {}, std::move(x)),
            nullptr);
      },
      *m);
}

// --- how they end -------------------------------------------------------------------------------

void connections::finish(const shared& c) {
  if (!std::exchange(c->up, false)) return;
  trace_.line(trace_level::events, [&] {
    return directory_.name_of(c->rank.owner) + " is not linked to " +
           directory_.name_of(c->coordinator.owner) + " any more";
  });
  for (const bool at_rank : {true, false}) {
    // Mostly at once; else when nothing has been heard for long enough.
    const bool silent = random_.chance(1, 4);
    const auto most = silent ? static_cast<std::uint64_t>(silence_max_.count()) * 1'000 : 1'000;
    scheduler_.in(microseconds(100 + random_.below(most)), [this, c, at_rank] {
      close(c, at_rank);
      forget();
    });
  }
}

void connections::close(const shared& c, bool at_rank) {
  auto& e = c->of(at_rank);
  e.letters.clear();
  if (std::exchange(e.closed, true)) return;
  dynamic_cast<proxy&>(*e.handle->get())
      .kill_proxy(nullptr, caf::exit_reason::remote_link_unreachable);
}

void connections::forget() {
  std::erase_if(all_, [](const auto& c) { return c->rank.closed && c->coordinator.closed; });
}

void connections::end_of(endpoint process) {
  for (const auto& c : all_)
    if (c->rank.owner == process || c->coordinator.owner == process) finish(c);
}

bool connections::break_one(endpoint process) {
  for (const auto& c : all_) {
    if (!c->up || (c->rank.owner != process && c->coordinator.owner != process)) continue;
    finish(c);
    return true;
  }
  return false;
}

}  // namespace lockstep::sim
