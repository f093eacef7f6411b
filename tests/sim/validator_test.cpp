// What the observer of steps catches where real actors say more than they have to: a word too many
// is put beside what one has said, as a part of its step.
#include "sim/validator.hpp"

#include <catch2/catch.hpp>
#include <functional>

using namespace lockstep;
using namespace lockstep::sim;
using std::chrono::seconds;

namespace {

/// A fleet without faults, whose steps are looked at and may be meddled with.
class watched_fleet final : public spectator {
 public:
  using deed = std::function<void()>;
  /// Called before an actor handles a message. What it returns is done when the actor has, as a
  /// part of the same step.
  using meddler = std::function<deed(caf::scheduled_actor&, const caf::type_erased_tuple&)>;

  watched_fleet() {
    scheduler_.set_spectator(this);
    network_.set_witness(
        [this](endpoint from, const address& to, const auto& m) { steps_.on_said(from, to, m); });
    fleet_.start(network_);
    run_for(seconds(1));
  }
  ~watched_fleet() override { scheduler_.end(); }

  meddler meddle;

  /// The report of one more sync.
  sync_report sync() {
    auto& t = fleet_.leader();
    fleet_.sync(t);
    std::optional<sync_report> report;
    while (!(report = t.ticket->wait_report(std::chrono::milliseconds(0)))) scheduler_.step();
    run_for(seconds(1));
    return *report;
  }
  const std::string& violation() const { return steps_.violation(); }

  caf::scheduled_actor* sender() { return started<sender_state>(trainer().sender); }
  caf::scheduled_actor* snapshot() { return started<snapshot_state>(trainer().snapshot); }

 private:
  static run_options without_faults() {
    run_options o;
    o.rates.rate.fill(0);
    return o;
  }
  const supervisor_state::trainer_group& trainer() {
    return *fleet_.actors_of(fleet_.leader()).supervisor->trainer;
  }
  void run_for(std::chrono::nanoseconds time) {
    for (const auto until = scheduler_.now() + time; scheduler_.now() < until;) scheduler_.step();
  }

  bool stands_still(const caf::scheduled_actor&) override { return false; }
  void before(caf::scheduled_actor& actor, caf::mailbox_element* message) override {
    steps_.before(actor, message);
    deed_ = meddle && message ? meddle(actor, message->content()) : deed();
  }
  void after(caf::scheduled_actor& actor) override {
    if (deed_) deed_();
    steps_.after(actor);
  }
  void ended(const caf::scheduled_actor& actor) override { steps_.on_ended(actor); }

  run_options options_ = without_faults();
  trace trace_;
  scheduler scheduler_{options_.seed};
  dice dice_{options_.seed, options_.rates};
  fleet fleet_{options_, scheduler_, dice_, trace_};
  network network_{scheduler_, dice_, trace_, fleet_, options_.seed};
  validator steps_{fleet_};
  deed deed_;
};

template <class Message>
void say(caf::scheduled_actor& from, caf::scheduled_actor* to, Message m) {
  to->enqueue(caf::make_mailbox_element(caf::strong_actor_ptr(from.ctrl()), caf::make_message_id(),
                                        {}, std::move(m)),
              nullptr);
}

bool is(const caf::scheduled_actor& actor, std::string_view name) {
  return actor.name() == name;
}

/// The first step of a sync that the model has not, if actors are meddled with so.
std::string caught(const std::function<watched_fleet::meddler(watched_fleet&)>& how) {
  watched_fleet f;
  f.meddle = how(f);
  f.sync();
  return f.violation();
}

void check_words(const std::string& violation, std::string_view begin, std::string_view end) {
  CAPTURE(violation);
  CHECK(violation.starts_with(begin));
  CHECK(violation.ends_with(end));
}

}  // namespace

TEST_CASE("where nobody meddles every step is the model's") {
  watched_fleet f;
  CHECK(f.sync().result == sync_result::ok);
  CHECK(f.violation().empty());
}

TEST_CASE("a join that says twice in one step how a round ended is caught") {
  const auto again = [](watched_fleet& f) {
    return [&f](caf::scheduled_actor& actor, const auto&) -> watched_fleet::deed {
      if (!is(actor, "join")) return {};
      return [&f, &actor, word = waiting_at<round_result>(actor, f.sender())] {
        std::optional<round_result> said;
        word.each_new([&](const round_result& r) { said = r; });
        if (said) say(actor, f.sender(), *said);
      };
    };
  };
  check_words(caught(again), "model: a join's step: ", "ends a round that is not under way");
}

TEST_CASE("a join that says something else before it says how a round ended is caught") {
  const auto before = [](watched_fleet& f) {
    return [&f, missing = std::size_t{0}](caf::scheduled_actor& actor,
                                          const auto& m) mutable -> watched_fleet::deed {
      if (!is(actor, "join")) return {};
      if (m.template match_elements<round_spec>())
        missing = m.template get_as<round_spec>(0).who.size();
      if (!m.template match_elements<reply_msg>() || --missing != 0) return {};
      // The last answer: its round ends in this step.
      const auto& last = m.template get_as<reply_msg>(0);
      say(actor, f.sender(), round_result{last.env.txn, last.round, round_kind::vote, {}});
      return {};
    };
  };
  check_words(caught(before), "model: a join's step: ", "says how another round ended");
}

namespace {

/// `say_it` in the same step after an actor of this name has handled a message of this type.
template <class Handled>
std::string caught_after(std::string_view name,
                         void (*say_it)(watched_fleet&, caf::scheduled_actor&, txn_ref)) {
  return caught([=](watched_fleet& f) -> watched_fleet::meddler {
    return [&f, name, say_it](auto& actor, const auto& m) -> watched_fleet::deed {
      if (!is(actor, name) || !m.template match_elements<Handled>()) return {};
      return
          [&f, &actor, say_it, txn = m.template get_as<Handled>(0).txn] { say_it(f, actor, txn); };
    };
  });
}

txn_ref next(txn_ref txn) {
  return {txn.run, txn.seq + 1};
}

}  // namespace

TEST_CASE("a snapshot's answer that nobody asked for is caught, whatever it answers besides") {
  const auto staged = [](watched_fleet& f, auto& from, txn_ref txn) {
    say(from, f.sender(), stage_result{txn, errc::none, {}, {}, nullptr});
  };
  const auto staged_next = [](watched_fleet& f, auto& from, txn_ref txn) {
    say(from, f.sender(), stage_result{next(txn), errc::none, {}, {}, nullptr});
  };
  const auto advanced = [](watched_fleet& f, auto& from, txn_ref txn) {
    say(from, f.sender(), advance_result{txn, errc::none, {}});
  };
  const auto advanced_next = [](watched_fleet& f, auto& from, txn_ref txn) {
    say(from, f.sender(), advance_result{next(txn), errc::none, {}});
  };
  const std::string name = "snapshot";
  const auto unasked = [](const std::string& violation) {
    check_words(violation, "model: a snapshot's step: snapshot, ", "answers what it was not asked");
  };
  // Of another transaction than the one under way.
  unasked(caught_after<stage_request>(name, staged_next));
  unasked(caught_after<join_verdict>(name, advanced_next));
  // Of that one, and not what it was asked of it.
  unasked(caught_after<stage_request>(name, advanced));
  unasked(caught_after<join_verdict>(name, staged));
  unasked(caught_after<drop_request>(name, staged));
  // And not twice.
  const auto twice = [](const std::string& violation) {
    check_words(violation, "model: a snapshot's step: ", "answers more than once");
  };
  twice(caught_after<stage_request>(name, staged));
  twice(caught_after<join_verdict>(name, advanced));
}

TEST_CASE("a join's verdict that nobody asked for is caught, whatever it says besides") {
  const auto all_ok = [](watched_fleet& f, auto& from, txn_ref txn) {
    say(from, f.snapshot(), join_verdict{txn, true});
  };
  const auto all_ok_next = [](watched_fleet& f, auto& from, txn_ref txn) {
    say(from, f.snapshot(), join_verdict{next(txn), true});
  };
  const std::string name = "join";
  const auto unasked = [](const std::string& violation) {
    check_words(violation, "model: a join's word: join, ",
                "says who has acknowledged, and was not asked");
  };
  unasked(caught_after<conclude_request>(name, all_ok_next));
  unasked(caught_after<round_spec>(name, all_ok));
  check_words(caught_after<conclude_request>(name, all_ok),
              "model: a join's word: ", "says more than once whether everybody has acknowledged");
}
