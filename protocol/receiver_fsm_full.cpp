// The part of the receiver machine that takes a version it does not lead to by itself: all weights,
// or all that has changed since it was left behind.
#include "protocol/deadlines.hpp"
#include "protocol/receiver_fsm.hpp"

namespace lockstep {

namespace act = receiver_action;

/// Opens a slot for what has changed since what was attested. Nothing else may have been obeyed
/// since: then these bytes are still those.
receiver_fsm::actions receiver_fsm::on_catch_up(time_point now, const full_begin_msg& m) {
  if (m.env.txn.run != fence_run_) return ignore();
  const auto attested = last_reply_ && last_reply_->kind == reply_kind::need_full &&
                                last_reply_->reason == errc::behind
                            ? std::optional(last_reply_->proof)
                            : std::nullopt;
  actions out;
  raise_fence(m.env);
  drop_slot(out);
  refresh(out);
  auto bad = check_manifest(m.content, settings_.receiver.staged_bytes_max);
  if (!attested) bad = errc::wrong_base;
  if (bad != errc::none) {
    answer(out, m.env, 0, reply_kind::full_fail, bad);
    return out;
  }
  open_slot(slot_kind::catch_up, m.env, m.target, m.content,
            now + 2 * (full_timeout(settings_, m.content.bytes) +
                       scan_time(settings_, self_.model_bytes)));
  slot_->base_state = *attested;
  slot_->challenge = m.challenge;
  if (slot_->buckets.empty()) slot_complete(out);
  return out;
}

receiver_fsm::actions receiver_fsm::on_full_begin(time_point now, const full_begin_msg& m) {
  if (!newer(m.env)) return repeat_answer(m.env);
  if (m.catch_up) return on_catch_up(now, m);
  actions out;
  raise_fence(m.env);
  drop_slot(out);
  // A full is written as it arrives, so the staging limit does not apply; but it cannot honestly
  // carry more than the model and one header for every bucket-sized part of it.
  const auto bad = check_manifest(m.content, full_bytes_limit(self_.model_bytes));
  if (bad != errc::none) {
    refresh(out);
    answer(out, m.env, 0, reply_kind::full_fail, bad);
    return out;
  }
  open_slot(slot_kind::full, m.env, m.target, m.content,
            now + 2 * full_timeout(settings_, m.content.bytes));
  slot_->challenge = m.challenge;
  stop_serving(receiver_phase::reseeding, errc::not_serving);
  refresh(out);
  if (!paused_) out.push_back(act::pause{m.env.txn});
  paused_ = true;
  if (slot_->buckets.empty()) slot_complete(out);
  return out;
}

receiver_fsm::actions receiver_fsm::on_bucket_written(txn_ref txn, std::uint32_t index) {
  if (!slot_ || slot_->env.txn != txn || slot_->kind != slot_kind::full ||
      index >= slot_->have.size() || !slot_->have[index] || slot_->written >= slot_->arrived)
    return ignore();
  actions out;
  if (++slot_->written == slot_->buckets.size()) slot_complete(out);
  return out;
}

}  // namespace lockstep
