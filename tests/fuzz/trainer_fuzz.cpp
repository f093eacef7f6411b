// The bytes are messages, one after the other, all from receivers: what the trainer's machines make
// of them.
#include <algorithm>
#include <map>
#include <set>

#include "fuzz/conversation.hpp"
#include "fuzz/fuzz.hpp"
#include "protocol/flusher_fsm.hpp"
#include "protocol/join_fsm.hpp"
#include "protocol/supervision_fsm.hpp"

namespace {

using namespace lockstep;

constexpr std::uint32_t buckets = 10;
constexpr std::uint32_t credit = 3;

class trainer {
 public:
  trainer() {
    flusher_.on_start(env_, buckets);
    open(round_kind::vote);
  }

  void hear(const wire_message& m) {
    std::visit([this](const auto& x) { take(x); }, m);
    if (const auto due = supervision_.deadline(now_); due && *due <= now_)
      bounded(supervision_.on_tick(now_));
    for (const auto& [id, record] : supervision_.records())
      fuzz::demand(record.superseded.size() <= supervision_fsm::superseded_max,
                   "lives that are remembered are bounded");
  }

 private:
  void open(round_kind kind) {
    spec_ = {fuzz::cluster,
             env_.txn,
             spec_.number + 1,
             kind,
             {{fuzz::id, fuzz::life}, {8, {1, 1}}},
             digest{3, 4},
             now_ + std::chrono::seconds(1)};
    join_.on_open(spec_);
    answers_.clear();
  }

  void take(const hello_msg& m) { bounded(supervision_.on_hello(now_, m)); }
  void take(const pong_msg& m) { bounded(supervision_.on_pong(now_, m)); }
  void take(const goodbye_msg& m) { bounded(supervision_.on_goodbye(now_, m)); }
  void take(const credit_msg& m) {
    const auto more = flusher_.on_credit(m);
    fuzz::demand(more.size() <= 1, "a credit is for one bucket");
    fuzz::demand(more.empty() || more[0] < buckets, "buckets that are sent exist");
  }
  void take(const reply_msg& m) {
    const participant from{m.id, m.env.inc};
    const bool commit = spec_.kind == round_kind::commit;
    const bool asked = m.env.cluster == spec_.cluster && m.env.txn == spec_.txn &&
                       m.round == spec_.number && std::ranges::count(spec_.who, from) == 1;
    const bool yes = commit ? m.kind == reply_kind::ack && m.proof == spec_.proof
                            : m.kind == reply_kind::vote_yes;
    const bool no = commit ? m.kind == reply_kind::ack || m.kind == reply_kind::nack
                           : m.kind == reply_kind::vote_no;
    // The first answer stands.
    const bool first = asked && (yes || no) && answers_.try_emplace(from, yes).second;
    if (first && yes && commit) acked_.insert(from);
    const auto result = join_.on_reply(m);
    for (const auto& p : spec_.who)
      fuzz::demand(join_.all_ok(spec_.txn, {p}) == acked_.contains(p), "an ack is a proven one");
    if (!result) return;
    fuzz::demand(first && answers_.size() == spec_.who.size(), "the last answer settles a round");
    for (const auto& outcome : result->outcomes)
      fuzz::demand((outcome.status == terminal::ok) == answers_.at(outcome.who),
                   "an ok is what was answered");
    open(commit ? round_kind::vote : round_kind::commit);
  }
  /// Not from receivers: here, time, and what the sender says of its rounds.
  void take(const ping_msg& m) {
    now_ += std::chrono::milliseconds(m.current.number % 100'000);
    if (join_.on_tick(now_)) open(round_kind::commit);
  }
  void take(const abort_msg& m) {
    bounded(supervision_.on_evicted(now_, {fuzz::id, m.env.inc}, errc::timeout, {}));
  }
  void take(const commit_msg& m) {
    bounded(
        supervision_.on_admitted(now_, {fuzz::id, m.env.inc}, static_cast<admission>(m.round % 3)));
  }
  void take(const auto&) {}

  static void bounded(const supervision_fsm::actions& list) {
    fuzz::demand(list.size() <= supervision_fsm::receivers_max, "actions are bounded");
  }

  envelope env_{fuzz::cluster, {1, 2}, fuzz::life};
  time_point now_{};
  supervision_fsm supervision_{{}};
  join_fsm join_;
  flusher_fsm flusher_{credit};
  round_spec spec_;
  std::map<participant, bool> answers_;
  std::set<participant> acked_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto rest = fuzz::input_of(data, size);
  const fuzz::held_bytes bound(32 * size + (32 << 10));
  trainer one;
  while (const auto message = fuzz::next_message(rest)) one.hear(*message);
  return 0;
}
