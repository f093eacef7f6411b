#include "sim/saboteur.hpp"

#include <algorithm>
#include <array>
#include <caf/send.hpp>

#include "sim/broken_weights.hpp"

namespace lockstep::sim {

namespace {

using v = variant;

constexpr std::array<variant_row, 11> table{{
    {v::advance_before_flush, "advance-before-flush",
     "The snapshot advances before anybody has answered: the bug that started it all."},
    {v::only_not_advance, "only-not-advance",
     "A partial success leaves the snapshot where it was, and that is all."},
    {v::reuse_version, "reuse-version",
     "An attempt after an abort takes the aborted one's number."},
    {v::no_run_fence, "no-run-fence", "Receivers see every run of the trainer as the same."},
    {v::no_incarnation, "no-incarnation", "A restarted receiver goes on as the life before it."},
    {v::attach_without_fence, "attach-without-fence",
     "What was staged before an attach can still be committed."},
    {v::advance_at_decision, "advance-at-decision",
     "The snapshot advances when the commit leaves, not at the acknowledgements."},
    {v::serve_torn, "serve-torn", "Readiness is not withdrawn while bytes are written."},
    {v::nan_mask, "nan-mask",
     "Elements are compared as numbers: what is NaN, or equal, has not changed."},
    {v::off_by_one, "off-by-one", "What is proven is written one element further."},
    {v::off_by_one_unproven, "off-by-one-unproven",
     "Likewise, and the proof of what was written sees none of it."},
}};

template <class Message>
Message* content_of(caf::mailbox_element* m) {
  auto& content = m->content();
  if (!content.match_elements<Message>()) return nullptr;
  return static_cast<Message*>(content.get_mutable(0));
}

}  // namespace

std::span<const variant_row> variant_table() noexcept {
  return table;
}

std::optional<variant> parse_variant(std::string_view name) {
  for (const auto& row : table)
    if (row.name == name) return row.id;
  return std::nullopt;
}

void saboteur::before(caf::scheduled_actor& actor, caf::mailbox_element* message) {
  if (!message) return;
  if (!digests_) hide_digests(actor, message);
  const std::string_view name = actor.name();
  if (name == "join") {
    if (const auto* spec = content_of<round_spec>(message)) forge_answers(actor, *spec);
  } else if (name == "sender" && how_ == v::reuse_version) {
    // Before anybody hears of it, and before observers note what it names.
    const auto* m = content_of<encode_result>(message);
    const auto* t = m && m->delta ? fleet_.trainer_of(actor) : nullptr;
    if (t && fleet_.is_current_sender(*t, actor)) name_attempt(m->txn);
  } else if (name == "sender" && how_ == v::only_not_advance) {
    auto* m = content_of<round_result>(message);
    const auto* t = m ? fleet_.trainer_of(actor) : nullptr;
    if (auto* s = t ? fleet_.actors_of(*t).sender : nullptr) forget_decision(*s, *m);
  } else if (name == "receiver" && how_ == v::attach_without_fence) {
    auto* r = fleet_.receiver_of(actor);
    auto* s = r ? fleet_.state_of_receiver(*r) : nullptr;
    if (!s) return;
    if (const auto* b = content_of<bucket_msg>(message)) remember_staged(*r, *b);
    if (content_of<attach_msg>(message)) on_attach(*r, *s);
    if (const auto* c = content_of<commit_msg>(message)) on_commit(*r, *s, *c);
  }
}

/// What a receiver and a join compare digests with are the same for all weights, but that of an
/// attach.
void saboteur::hide_digests(caf::scheduled_actor& actor, caf::mailbox_element* message) const {
  if (auto* spec = content_of<round_spec>(message)) {
    spec->proof = undigested;
    spec->part_proofs.clear();
  }
  auto* r = fleet_.receiver_of(actor);
  if (!r || !r->undigested) return;
  const auto* attach = content_of<attach_msg>(message);
  r->undigested->attach_to(attach ? std::optional(attach->target.state) : std::nullopt);
  const auto hide = [](auto* m) {
    if (!m) return;
    if constexpr (requires { m->target; }) m->target.state = undigested;
    if constexpr (requires { m->base_state; }) m->base_state = undigested;
    if constexpr (requires { m->target_state; }) m->target_state = undigested;
  };
  hide(content_of<attach_msg>(message));
  hide(content_of<full_begin_msg>(message));
  hide(content_of<prepare_msg>(message));
  hide(content_of<commit_msg>(message));
  hide(content_of<redo_msg>(message));
}

void saboteur::after(caf::scheduled_actor& actor) {
  if (how_ == v::only_not_advance) return hand_over_votes(actor);
  if (how_ != v::off_by_one_unproven) return;
  auto* r = fleet_.receiver_of(actor);
  if (!r || !std::exchange(r->written, false)) return;
  const auto now = bytes_of(r->memory);
  copy_into(r->memory, written_one_further(r->memory.shape(), r->seen, now));
}

// --- the join says what nobody said -------------------------------------------------------------

void saboteur::forge_answers(caf::scheduled_actor& join, const round_spec& spec) {
  const bool vote = spec.kind == round_kind::vote;
  const bool commit = spec.kind == round_kind::commit;
  const bool forged =
      how_ == v::advance_before_flush ? vote || commit : how_ == v::advance_at_decision && commit;
  if (!forged) return;
  const auto kind = vote ? reply_kind::vote_yes : reply_kind::ack;
  for (const auto& who : spec.who) {
    const auto part = spec.part_proofs.find(who);
    caf::anon_send(caf::actor_cast<join_actor>(&join),
                   reply_msg{{spec.cluster, spec.txn, who.inc},
                             who.id,
                             spec.number,
                             kind,
                             errc::none,
                             {},
                             part == spec.part_proofs.end() ? spec.proof : part->second});
  }
}

/// A failure after the decision is taken for one before it: everybody stays a member.
void saboteur::forget_decision(sender_state& sender, round_result& result) {
  const auto where = static_cast<endpoint>(sender.setup.run);
  if (result.kind == round_kind::vote) {
    if (sender.machine->awaits_proof_of(result.txn)) {
      // Of a machine that does not know what the snapshot says there is nothing to forget yet.
      votes_.insert_or_assign(where, result);
      result.txn = {};
    } else {
      undecided_.insert_or_assign(where, *sender.machine);
    }
    return;
  }
  const auto it = undecided_.find(where);
  const bool acks = result.kind == round_kind::commit || result.kind == round_kind::redo;
  if (!acks || it == undecided_.end() ||
      std::ranges::all_of(result.outcomes, [](const auto& o) { return o.status == terminal::ok; }))
    return;
  *sender.machine = it->second;
  result.kind = round_kind::vote;
  result.number = 0;
  result.outcomes.clear();
  for (const auto& p : sender.machine->members())
    result.outcomes.push_back({p, terminal::no, errc::no_memory, {}});
}

/// The votes come when the snapshot's own is in.
void saboteur::hand_over_votes(caf::scheduled_actor& actor) {
  if (votes_.empty() || std::string_view(actor.name()) != "sender") return;
  const auto* t = fleet_.trainer_of(actor);
  const auto* s = t && fleet_.is_current_sender(*t, actor) ? fleet_.actors_of(*t).sender : nullptr;
  const auto it = s ? votes_.find(static_cast<endpoint>(s->setup.run)) : votes_.end();
  if (it == votes_.end() || s->machine->awaits_proof_of(it->second.txn)) return;
  caf::anon_send(caf::actor_cast<sender_actor>(&actor), std::move(it->second));
  votes_.erase(it);
}

// --- what is staged outlives an attach ----------------------------------------------------------

void saboteur::remember_staged(receiver_process& r, const bucket_msg& m) {
  auto& known = receivers_[r.where];
  if (known.staging != m.env.txn) known.buckets.clear();
  known.staging = m.env.txn;
  known.buckets[m.index] = m.bytes;
}

void saboteur::on_attach(receiver_process& r, receiver_state& s) {
  auto& known = receivers_[r.where];
  const auto now = s.machine->summarize();
  if (!now.slot || !now.slot->staged || now.slot->txn != known.staging) return;
  known.before_attach.emplace(earlier{*s.machine, known.buckets});
}

void saboteur::on_commit(receiver_process& r, receiver_state& s, const commit_msg& m) {
  auto& known = receivers_[r.where];
  if (!known.before_attach) return;
  auto trial = known.before_attach->machine;
  const auto actions = trial.on_commit(time_point{}, m);
  const bool applies = std::ranges::any_of(actions, [](const auto& a) {
    return std::holds_alternative<receiver_action::apply_slot>(a);
  });
  if (!applies || trial.self().inc != r.inc) return;
  *s.machine = known.before_attach->machine;
  s.bytes->drop();
  for (auto& [index, bucket] : known.before_attach->staged) s.bytes->keep(index, bucket);
  known.before_attach.reset();
}

// --- names --------------------------------------------------------------------------------------

void saboteur::name_attempt(txn_ref txn) {
  auto& n = runs_[txn.run];
  if (n.last_aborted) {
    const auto wire = on_wire({txn.run, n.last}).number;
    n.wire[txn.seq] = wire;
    n.back[wire] = txn.seq;
  }
  n.last = txn.seq;
  n.last_aborted = false;
}

void saboteur::on_report(const trainer_process& t, const sync_report& report) {
  // Without a transaction nobody has seen a number.
  if (t.sync_txn) runs_[t.sync_txn.run].last_aborted = report.result == sync_result::aborted;
}

version_ref saboteur::on_wire(version_ref version) const {
  if (how_ != v::reuse_version) return version;
  const auto known = runs_.find(version.run);
  if (known == runs_.end()) return version;
  const auto it = known->second.wire.find(version.number);
  return it == known->second.wire.end() ? version : version_ref{version.run, it->second};
}

version_ref saboteur::true_tag(const receiver_process& r, version_ref version) const {
  if (how_ != v::no_run_fence || !version) return version;
  const auto it = receivers_.find(r.where);
  return {it == receivers_.end() ? 0 : it->second.tag_run, version.number};
}

void saboteur::rename(wire_message& m) const {
  const auto to_wire = [&](version_ref& version) { version = on_wire(version); };
  std::visit(
      [&](auto& x) {
        if constexpr (requires { x.env; })
          x.env.txn.seq = on_wire({x.env.txn.run, x.env.txn.seq}).number;
        if constexpr (requires { x.child_inc; }) {  // whom to lend weights to
          x.txn.seq = on_wire({x.txn.run, x.txn.seq}).number;
          to_wire(x.version);
        }
        if constexpr (requires { x.base.run; }) to_wire(x.base);
        if constexpr (requires { x.target; }) to_wire(x.target.version);
        if constexpr (requires { x.current; }) to_wire(x.current);
      },
      m);
}

bool saboteur::on_arrival(wire_message& m, endpoint from, endpoint to) {
  // What receivers pass on to each other has the names that it came with.
  if (!fleet_.trainer_of(from) || to >= fleet_.receivers().size()) return true;
  if (how_ == v::reuse_version) {
    rename(m);
  } else if (how_ == v::no_run_fence) {
    auto& known = receivers_[to];
    std::visit(
        [&](auto& x) {
          if constexpr (requires { x.env; }) {
            known.run_of[x.env.txn.seq] = x.env.txn.run;
            x.env.txn.run = 1;
          }
          if constexpr (requires { x.child_inc; }) x.txn.run = x.version.run = 1;
          if constexpr (requires { x.base.run; }) x.base.run = 1;
          if constexpr (requires { x.target; }) x.target.version.run = 1;
          if constexpr (requires { x.current; }) x.current.run = 1;
        },
        m);
  }
  return true;
}

bool saboteur::on_send(wire_message& m, endpoint from, endpoint to) {
  if (!fleet_.trainer_of(to) || from >= fleet_.receivers().size()) return true;
  if (how_ == v::reuse_version) {
    std::visit(
        [&](auto& x) {
          if constexpr (requires { x.env; }) {
            const auto& back = runs_[x.env.txn.run].back;
            if (const auto it = back.find(x.env.txn.seq); it != back.end())
              x.env.txn.seq = it->second;
          }
        },
        m);
  } else if (how_ == v::no_run_fence) {
    auto& known = receivers_[from];
    if (auto* reply = std::get_if<reply_msg>(&m)) {
      reply->env.txn.run = known.run_of[reply->env.txn.seq];
      const bool adopted = reply->kind == reply_kind::attached ||
                           reply->kind == reply_kind::full_ok || reply->kind == reply_kind::ack;
      if (adopted) known.tag_run = reply->env.txn.run;
    } else if (auto* credit = std::get_if<credit_msg>(&m)) {
      credit->env.txn.run = known.run_of[credit->env.txn.seq];
    } else if (auto* pong = std::get_if<pong_msg>(&m)) {
      if (pong->state.version) pong->state.version.run = known.tag_run;
    }
  }
  return true;
}

}  // namespace lockstep::sim
