// Steps that no machine of the protocol may make, made from steps that they did make: each is
// caught.
#include <algorithm>
#include <catch2/catch.hpp>
#include <map>

#include "sim/relation.hpp"
#include "tests/sim/relation_fuzz.hpp"
#include "tests/support/cluster_sim.hpp"

using namespace lockstep;
using namespace lockstep::sim;

namespace {

template <class Step>
struct mutation {
  const char* name;
  /// False: there is nothing to spoil in this step.
  std::function<bool(Step&)> spoil;
  int spoilt = 0, caught = 0;
};

template <class Step>
void apply(std::vector<mutation<Step>>& all, const Step& real) {
  for (auto& m : all) {
    auto step = real;
    if (!m.spoil(step)) continue;
    ++m.spoilt;
    m.caught += check(step).has_value();
  }
}

template <class Step>
void all_caught(const std::vector<mutation<Step>>& all) {
  for (const auto& m : all) {
    INFO(m.name << ": " << m.caught << " of " << m.spoilt);
    CHECK(m.spoilt >= 20);
    CHECK(m.caught == m.spoilt);
  }
}

bool says(const receiver_step& s, reply_kind kind) {
  return s.replies.size() == 1 && s.replies[0].kind == kind;
}

const envelope* envelope_of(const receiver_step& s) {
  if (!s.event) return nullptr;
  return std::visit(
      [](const auto& m) -> const envelope* {
        if constexpr (requires { m.env; }) return &m.env;
        return nullptr;
      },
      *s.event);
}

/// Of those that the machine did not wait with: a message that the model obeys.
bool obeyed(const receiver_step& s) {
  return s.event && !std::holds_alternative<bucket_msg>(*s.event) &&
         (s.before.phase != s.after.phase || s.before.fence != s.after.fence ||
          s.before.slot.has_value() != s.after.slot.has_value());
}

using receiver_mutations = std::vector<mutation<receiver_step>>;

receiver_mutations lies_of_a_receiver() {
  return {
      {"acknowledges what it has not staged",
       [](auto& s) {
         if (!says(s, reply_kind::nack) || s.before.phase == receiver_phase::applying) return false;
         s.replies[0].kind = reply_kind::ack;
         s.replies[0].reason = errc::none;
         return true;
       }},
      {"votes yes without having staged",
       [](auto& s) {
         if (!says(s, reply_kind::vote_no)) return false;
         s.replies[0].kind = reply_kind::vote_yes;
         s.replies[0].reason = errc::none;
         return true;
       }},
      {"says that it is attached, and is not",
       [](auto& s) {
         const auto* m = s.event ? std::get_if<attach_msg>(&*s.event) : nullptr;
         if (!m || !says(s, reply_kind::need_full)) return false;
         if (s.after.tag.version == m->target.version) return false;  // it may well be
         s.replies[0].kind = reply_kind::attached;
         return true;
       }},
      {"answers in another transaction",
       [](auto& s) {
         if (s.replies.empty()) return false;
         ++s.replies[0].env.txn.seq;
         return true;
       }},
      {"answers in another round",
       [](auto& s) {
         if (s.replies.empty()) return false;
         ++s.replies[0].round;
         return true;
       }},
      {"does not answer",
       [](auto& s) {
         if (s.replies.empty() || s.before == s.after) return false;
         s.replies.clear();
         return true;
       }},
  };
}

receiver_mutations states_of_a_receiver() {
  return {
      {"stays serving while it applies",
       [](auto& s) {
         if (s.after.phase != receiver_phase::applying || !s.before.tag.version) return false;
         if (!s.event || !std::holds_alternative<commit_msg>(*s.event)) return false;
         s.after.phase = receiver_phase::serving;
         s.after.tag = s.before.tag;
         return true;
       }},
      {"keeps its tag over other bytes",
       [](auto& s) {
         if (s.after.tag.version || !s.before.tag.version) return false;
         s.after.tag = s.before.tag;
         return true;
       }},
      {"forgets the fence",
       [](auto& s) {
         if (s.after.fence == s.before.fence) return false;
         s.after.fence = s.before.fence;
         return true;
       }},
      {"obeys a message that its fence is past",
       [](auto& s) {
         const auto* env = envelope_of(s);
         if (env == nullptr || !env->txn || env->txn >= s.before.fence) return false;
         s.after.fence = env->txn;
         return true;
       }},
      {"keeps what was staged through an attach",
       [](auto& s) {
         if (!s.event || !std::holds_alternative<attach_msg>(*s.event)) return false;
         if (!s.before.slot || s.after.slot) return false;
         s.after.slot = s.before.slot;
         return true;
       }},
      {"ignores what it must obey",
       [](auto& s) {
         if (!obeyed(s)) return false;
         s.after = s.before;
         s.replies.clear();
         return true;
       }},
      {"serves a version that nobody led to",
       [](auto& s) {
         if (s.after.tag == s.before.tag || !s.after.tag.version) return false;
         s.after.tag.version.number += 1000;
         return true;
       }},
      {"becomes another life", [](auto& s) { return ++s.after.inc.hi != 0; }},
  };
}

bool turns(const sender_step& s, sync_phase from, sync_phase to) {
  return s.before.phase == from && s.after.phase == to;
}

bool in(const std::vector<participant>& where, const participant& who) {
  return std::find(where.begin(), where.end(), who) != where.end();
}

/// Puts the first participant of which `which` holds back into the view.
template <class Which>
bool keeps(sender_step& s, Which which) {
  if (!s.result) return false;
  for (const auto& o : s.result->outcomes)
    if (which(o) && in(s.before.view, o.who) && !in(s.after.members, o.who) &&
        !in(s.after.view, o.who)) {
      s.after.members.push_back(o.who);
      return true;
    }
  return false;
}

/// What is counted in a step that ends the votes.
const round_result& votes_in(const sender_step& s) {
  return s.result ? *s.result : *s.before.votes;
}

using sender_mutations = std::vector<mutation<sender_step>>;

sender_mutations deeds_of_a_sender() {
  using word = sender_step::word;
  return {
      {"advances at the decision",
       [](auto& s) {
         if (!turns(s, sync_phase::voting, sync_phase::committing)) return false;
         s.after.snapshot = s.after.target;
         return true;
       }},
      {"advances without having asked for acknowledgements",
       [](auto& s) {
         if (!turns(s, sync_phase::voting, sync_phase::committing)) return false;
         s.after.phase = sync_phase::advancing;
         return true;
       }},
      {"keeps who did not acknowledge",
       [](auto& s) {
         return turns(s, sync_phase::committing, sync_phase::advancing) &&
                keeps(s, [](const auto& o) { return o.status != terminal::ok; });
       }},
      {"evicts who did",
       [](auto& s) {
         if (!turns(s, sync_phase::committing, sync_phase::advancing) || !s.result) return false;
         auto& all = s.after.members;
         const auto end = std::remove_if(all.begin(), all.end(),
                                         [&](const auto& p) { return in(s.before.view, p); });
         if (end == all.end()) return false;
         all.erase(end, all.end());
         return true;
       }},
      {"does not advance after all acknowledged (only-not-advance)",
       [](auto& s) {
         if (!turns(s, sync_phase::committing, sync_phase::advancing)) return false;
         s.after.phase = sync_phase::idle;
         return true;
       }},
      {"tells somebody to write who did not vote yes",
       [](auto& s) {
         if (!turns(s, sync_phase::voting, sync_phase::committing)) return false;
         for (const auto& o : votes_in(s).outcomes)
           if (o.status != terminal::ok) {
             s.sent.push_back({o.who, word::commit});
             return true;
           }
         return false;
       }},
      {"commits and aborts",
       [](auto& s) {
         if (!turns(s, sync_phase::voting, sync_phase::committing)) return false;
         s.sent.push_back({s.after.view.front(), word::abort});
         return true;
       }},
      {"forgets to ask",
       [](auto& s) {
         if (s.sent.empty() || s.event == sender_event::tick || !s.before.down.empty())
           return false;
         if (s.event == sender_event::encoded && s.after.phase != sync_phase::voting)
           return false;  // of what was never announced
         s.sent.pop_back();
         return true;
       }},
      {"takes a number again",
       [](auto& s) {
         if (!turns(s, sync_phase::idle, sync_phase::encoding)) return false;
         s.after.txn = s.before.txn;
         return true;
       }},
      {"admits who needs a full transfer",
       [](auto& s) {
         return s.before.phase == sync_phase::attaching &&
                keeps(s, [](const auto& o) { return o.status == terminal::no; });
       }},
  };
}

/// What a join said of a round, and what it had been told.
struct join_word {
  join_relation told;
  join_fsm::emitted said;
};
std::optional<std::string> check(join_word w) {
  return w.told.check(w.said ? &*w.said : nullptr);
}

/// Changes the first outcome with this status.
bool becomes(join_word& w, terminal from, terminal to) {
  if (!w.said) return false;
  for (auto& o : w.said->outcomes)
    if (o.status == from) {
      o.status = to;
      return true;
    }
  return false;
}

std::vector<mutation<join_word>> words_of_a_join() {
  using t = terminal;
  return {
      {"takes silence for a yes", [](auto& w) { return becomes(w, t::timeout, t::ok); }},
      {"takes a refusal for a yes", [](auto& w) { return becomes(w, t::no, t::ok); }},
      {"takes a failure for a yes", [](auto& w) { return becomes(w, t::nack, t::ok); }},
      {"takes an end for a yes", [](auto& w) { return becomes(w, t::dead, t::ok); }},
      {"does not count a yes", [](auto& w) { return becomes(w, t::ok, t::timeout); }},
      {"believes a lie",
       [](auto& w) {
         if (!w.said) return false;
         for (auto& o : w.said->outcomes)
           if (o.reason == errc::false_ack) {
             o.status = terminal::ok;
             return true;
           }
         return false;
       }},
      {"takes a refusal of the delta for doubt",
       [](auto& w) {
         if (!w.said || w.said->kind != round_kind::vote) return false;
         for (auto& o : w.said->outcomes)
           if (o.status == terminal::no && o.reason == errc::no_memory) {
             o.reason = errc::torn;
             return true;
           }
         return false;
       }},
      {"leaves somebody out",
       [](auto& w) {
         if (!w.said || w.said->outcomes.empty()) return false;
         w.said->outcomes.pop_back();
         return true;
       }},
      {"ends another round", [](auto& w) { return w.said && ++w.said->number != 0; }},
      {"ends another transaction's", [](auto& w) { return w.said && ++w.said->txn.seq != 0; }},
      {"says of somebody what he holds, and he does not",
       [](auto& w) {
         if (!w.said || w.said->kind != round_kind::attach) return false;
         for (auto& o : w.said->outcomes)
           if (o.status == terminal::no) {
             ++o.held.lane0;
             return true;
           }
         return false;
       }},
      {"does not say that all have answered",
       [](auto& w) {
         if (!w.said) return false;
         for (const auto& o : w.said->outcomes)
           if (o.status == terminal::timeout) return false;
         w.said.reset();
         return true;
       }},
  };
}

}  // namespace

TEST_CASE("what a join says that the model does not count is caught") {
  auto words = words_of_a_join();
  watcher watch{[](const receiver_step&) {}, [](const sender_step&) {}, [](const auto&) {},
                [](const auto&) {}};
  std::map<std::uint64_t, join_relation> joins;
  watch.join = [&](auto run, const join_event& event, const join_fsm::emitted& said) {
    auto& told = joins[run];
    told.on(event);
    const join_word word{told, said};
    if (said) apply(words, word);
    told.check(said ? &*said : nullptr);
  };
  for (std::uint64_t seed = 1; seed <= 500; ++seed) {
    joins.clear();
    run_cluster(seed, {broken::no, true, 20, &watch});
  }
  all_caught(words);
}

TEST_CASE("a receiver's step that the model has not is caught") {
  auto lies = lies_of_a_receiver();
  auto states = states_of_a_receiver();
  for (std::uint64_t seed = 1; seed <= 500; ++seed) {
    receiver_fuzz fuzz(seed);
    fuzz.on_step = [&](const receiver_step& s) {
      apply(lies, s);
      apply(states, s);
    };
    for (int i = 0; i < 1000; ++i) fuzz.step();
  }
  all_caught(lies);
  all_caught(states);
}

TEST_CASE("a sender's step that the model has not is caught") {
  auto deeds = deeds_of_a_sender();
  const watcher watch{[](const receiver_step&) {}, [&](const sender_step& s) { apply(deeds, s); },
                      [](const auto&) {}, [](const auto&) {}};
  for (std::uint64_t seed = 1; seed <= 500; ++seed)
    run_cluster(seed, {broken::no, true, 20, &watch});
  all_caught(deeds);
}

TEST_CASE("a run that has ended stays so") {
  sender_step s;
  s.before.phase = sync_phase::advancing;
  s.before.target.version = {1, 4};
  s.after = s.before;
  s.after.phase = sync_phase::failed;
  s.event = sender_event::advanced;
  CHECK(check(s) == std::nullopt);
  s.sent.push_back({{1, {2, 3}}, sender_step::word::abort});
  CHECK(check(s));
  s.sent.clear();
  s.after.members.push_back({1, {2, 3}});
  CHECK(check(s));
  s.before = s.after;
  s.after.phase = sync_phase::idle;
  CHECK(check(s));
}

TEST_CASE("broken machines are caught by their first wrong step") {
  const auto variant = GENERATE(broken::no_eviction, broken::attach_no_fence);
  std::string first;
  const auto judge = [&](const auto& step) {
    if (const auto why = check(step); why && first.empty()) first = *why;
  };
  const watcher watch{judge, judge, [](const auto&) {}, [](const auto&) {}};
  std::uint64_t seed = 0;
  while (first.empty() && seed < 1000) run_cluster(++seed, {variant, true, 20, &watch});
  WARN("variant " << static_cast<int>(variant) << ", seed " << seed << ": " << first);
  CHECK_FALSE(first.empty());
}
