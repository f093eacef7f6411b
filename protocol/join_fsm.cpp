#include "protocol/join_fsm.hpp"

#include <algorithm>
#include <utility>

namespace lockstep {

namespace {

bool answers(round_kind round, reply_kind kind) {
  switch (round) {
    case round_kind::attach:
      return kind == reply_kind::attached || kind == reply_kind::need_full;
    case round_kind::full:
      return kind == reply_kind::full_ok || kind == reply_kind::full_fail;
    case round_kind::vote:
      return kind == reply_kind::vote_yes || kind == reply_kind::vote_no;
    case round_kind::commit:
    case round_kind::redo:
      return kind == reply_kind::ack || kind == reply_kind::nack;
  }
  return false;
}

bool positive(reply_kind kind) {
  return kind == reply_kind::attached || kind == reply_kind::full_ok ||
         kind == reply_kind::vote_yes || kind == reply_kind::ack;
}

/// Refusals after which the receiver's bytes are as they were.
bool before_writing(reply_kind kind) {
  return kind == reply_kind::vote_no || kind == reply_kind::need_full;
}

}  // namespace

join_fsm::emitted join_fsm::on_open(round_spec spec) {
  if (acked_txn_ != spec.txn) {
    acked_txn_ = spec.txn;
    acked_.clear();
  }
  got_.assign(spec.who.size(), std::nullopt);
  missing_ = spec.who.size();
  open_ = std::move(spec);
  return missing_ == 0 ? finish() : std::nullopt;
}

void join_fsm::on_hurry(const round_hurry& h) {
  if (open_ && open_->txn == h.txn && open_->number == h.number)
    open_->deadline = std::min(open_->deadline, h.deadline);
}

join_fsm::emitted join_fsm::on_reply(const reply_msg& m) {
  const participant from{m.id, m.env.inc};
  if (open_ && m.env.cluster == open_->cluster && m.env.txn == open_->txn &&
      m.round == open_->number && answers(open_->kind, m.kind)) {
    const auto it = std::find(open_->who.begin(), open_->who.end(), from);
    if (it != open_->who.end()) {
      const auto index = static_cast<std::size_t>(it - open_->who.begin());
      if (!positive(m.kind))
        return settle(index, before_writing(m.kind) ? terminal::no : terminal::nack, m.reason,
                      m.detail, m.proof);
      const auto part = open_->part_proofs.find(from);
      const auto& proof = part == open_->part_proofs.end() ? open_->proof : part->second;
      if (open_->kind != round_kind::vote && m.proof != proof)
        return settle(index, terminal::nack, errc::false_ack,
                      "said ok, but its bytes are not the target's");
      return settle(index, terminal::ok, errc::none, {});
    }
  }
  ++ignored_;
  return std::nullopt;
}

join_fsm::emitted join_fsm::on_down(const participant& who, errc reason) {
  if (!open_) return std::nullopt;
  const auto it = std::find(open_->who.begin(), open_->who.end(), who);
  if (it == open_->who.end()) return std::nullopt;
  return settle(static_cast<std::size_t>(it - open_->who.begin()), terminal::dead, reason, {});
}

join_fsm::emitted join_fsm::on_tick(time_point now) {
  if (!open_ || now < open_->deadline) return std::nullopt;
  return finish();
}

join_fsm::emitted join_fsm::settle(std::size_t index, terminal status, errc reason,
                                   std::string detail, digest held) {
  if (got_[index]) {
    ++ignored_;  // the first terminal status stands
    return std::nullopt;
  }
  const auto& who = open_->who[index];
  const bool ack = open_->kind == round_kind::commit || open_->kind == round_kind::redo;
  if (ack && status == terminal::ok) acked_.insert(who);
  if (detail.size() > reply_detail_max) detail.resize(reply_detail_max);
  got_[index] = outcome{who, status, reason, std::move(detail), held};
  return --missing_ == 0 ? finish() : std::nullopt;
}

join_fsm::emitted join_fsm::finish() {
  round_result result{open_->txn, open_->number, open_->kind, {}};
  for (std::size_t i = 0; i < got_.size(); ++i)
    result.outcomes.push_back(got_[i] ? std::move(*got_[i])
                                      : outcome{open_->who[i], terminal::timeout, errc::timeout,
                                                "no answer within the deadline"});
  open_.reset();
  return result;
}

bool join_fsm::all_ok(txn_ref txn, const std::vector<participant>& view) const {
  if (view.empty()) return true;
  return txn == acked_txn_ &&
         std::all_of(view.begin(), view.end(), [&](const auto& p) { return acked_.count(p) > 0; });
}

std::optional<time_point> join_fsm::deadline() const {
  if (!open_) return std::nullopt;
  return open_->deadline;
}

}  // namespace lockstep
