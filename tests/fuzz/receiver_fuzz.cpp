// The bytes are messages, one after the other, all for one receiver: the machine on real weights.
#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "fuzz/conversation.hpp"
#include "fuzz/fuzz.hpp"
#include "protocol/receiver_fsm.hpp"

namespace {

using namespace lockstep;
namespace act = receiver_action;

/// No event asks for more than this at once.
constexpr std::size_t actions_max = 8;

/// What actors/engine.hpp does, without hooks and faults.
class receiver {
 public:
  receiver() { run(machine_.on_start(now_)); }

  void hear(const wire_message& m) {
    std::visit([this](const auto& x) { take(x); }, m);
    if (const auto due = machine_.deadline(); due && *due <= now_) run(machine_.on_tick(now_));
    check();
  }

 private:
  void take(const attach_msg& m) {
    name(m.target);
    run(machine_.on_attach(now_, m));
  }
  void take(const full_begin_msg& m) {
    name(m.target);
    run(machine_.on_full_begin(now_, m));
  }
  void take(const prepare_msg& m) {
    name(m.target);
    run(machine_.on_prepare(now_, m));
  }
  void take(const redo_msg& m) {
    name(m.target);
    run(machine_.on_redo(now_, m));
  }
  void take(const bucket_msg& m) {
    arrived_ = m.bytes;
    run(machine_.on_bucket(now_, m.env, m.index, m.bytes.size(), hash_of(m.bytes)));
  }
  void take(const commit_msg& m) { run(machine_.on_commit(now_, m)); }
  void take(const abort_msg& m) { run(machine_.on_abort(now_, m)); }
  void take(const ping_msg& m) { run(machine_.on_ping(now_, m)); }
  /// Not for receivers: here, time.
  void take(const credit_msg& m) { now_ += std::chrono::milliseconds(m.index); }
  void take(const auto&) {}

  void name(const target_info& target) { named_[target.version].insert(target.state); }

  digest state() const { return digest_of(public_digest_seed, views_); }

  void run(const receiver_fsm::actions& list) {
    fuzz::demand(list.size() <= actions_max, "an event asks for a bounded number of actions");
    for (const auto& action : list) std::visit([this](const auto& a) { perform(a); }, action);
  }

  void perform(const act::keep_bucket& a) { kept_[a.index] = arrived_; }
  void perform(const act::drop_slot&) { kept_.clear(); }
  void perform(const act::verify_slot& a) {
    if (state() != a.base) return verified(a.txn, errc::wrong_base);
    const auto buckets = staged();
    if (check_buckets(buckets, views_)) return verified(a.txn, errc::bad_frame);
    const bool right = predict(public_digest_seed, a.base, buckets, views_) == a.target;
    verified(a.txn, right ? errc::none : errc::wrong_target);
  }
  void perform(const act::check_slot& a) {
    verified(a.txn, check_buckets(staged(), views_) ? errc::bad_frame : errc::none);
  }
  void perform(const act::apply_slot& a) {
    fuzz::demand(verified_ == a.txn, "a delta is proven before it is written");
    paused();
    for (const auto& bucket : staged()) write(bucket);
    finish(a.txn, a.challenge);
  }
  void perform(const act::write_bucket& a) {
    paused();
    if (write(arrived_))
      run(machine_.on_bucket_written(a.txn, a.index));
    else
      run(machine_.on_write_failed(a.txn, errc::bad_frame, "no frames"));
  }
  void perform(const act::finish_full& a) { finish(a.txn, a.challenge); }
  void perform(const act::compute_digest& a) {
    run(machine_.on_digest(a.txn, state(), digest_of(a.challenge, views_)));
  }
  void perform(const act::pause&) { paused_ = true; }
  void perform(const act::resume&) { paused_ = false; }
  void perform(const act::reply& a) {
    fuzz::demand(a.message.detail.size() <= reply_detail_max, "details are bounded");
  }
  void perform(const act::publish& a) {
    fuzz::demand(a.state == machine_.state(), "what is published is the state");
  }
  void perform(const auto&) {}

  std::vector<payload> staged() const {
    std::vector<payload> buckets;
    for (const auto& [index, bytes] : kept_) buckets.push_back(bytes);
    return buckets;
  }
  void verified(txn_ref txn, errc reason) {
    if (reason == errc::none) verified_ = txn;
    run(machine_.on_verified(txn, reason, {}));
  }
  void paused() const {
    fuzz::demand(paused_, "an engine is paused before its bytes are written");
    fuzz::demand(!machine_.state().ready, "nobody is served while bytes are written");
  }
  bool write(const payload& bucket) {
    std::vector<std::size_t> touched;
    return !apply_bucket(bucket, spans_, touched);
  }
  void finish(txn_ref txn, std::uint64_t challenge) {
    run(machine_.on_applied(txn, state(), digest_of(challenge, views_)));
  }

  /// I3: what is served is what its tag names.
  void check() const {
    const auto& now = machine_.state();
    if (now.phase != receiver_phase::serving) {
      fuzz::demand(!now.ready && !now.version, "a tag and readiness exist while serving only");
      return;
    }
    const auto names = named_.find(now.version);
    fuzz::demand(names != named_.end() && names->second.contains(state()),
                 "the bytes are those that the tag names");
    fuzz::demand(!paused_, "who serves is not paused");
  }

  weight_buffer weights_ = fuzz::small_weights();
  tensor_spans spans_ = fuzz::spans_of(weights_);
  tensor_views views_ = as_views(spans_);
  receiver_fsm machine_{{fuzz::cluster, fuzz::id, fuzz::life, weights_.shape().fingerprint(),
                         weights_.shape().total_bytes()},
                        {}};
  time_point now_{};
  payload arrived_;
  std::map<std::uint32_t, payload> kept_;
  bool paused_ = false;
  txn_ref verified_;
  std::map<version_ref, std::set<digest>> named_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto rest = fuzz::input_of(data, size);
  const fuzz::held_bytes bound(8 * size + (32 << 10));
  receiver one;
  while (const auto message = fuzz::next_message(rest)) one.hear(*message);
  return 0;
}
