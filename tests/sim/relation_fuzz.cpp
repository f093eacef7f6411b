#include "tests/sim/relation_fuzz.hpp"

namespace lockstep::sim {

namespace {

namespace act = receiver_action;

constexpr std::uint64_t cluster = 7;
constexpr hash128 layout_print{1, 2};

/// One content for each version.
digest content(version_ref v) {
  return {v.run * 1000 + v.number, 5};
}
target_info info(version_ref v) {
  return {v, content(v), v.number};
}

payload bytes_of(std::uint64_t value, std::size_t size) {
  return payload(std::vector<std::byte>(size, static_cast<std::byte>(value)));
}
hash128 hash_of(const payload& p) {
  return {p.size(), p.size() == 0 ? 0 : static_cast<std::uint64_t>(p.data()[0])};
}

}  // namespace

receiver_fuzz::receiver_fuzz(std::uint64_t seed) : rng_(seed) {
  be_born();
}

void receiver_fuzz::be_born() {
  inc_ = {++lives_, 9};
  fsm_.emplace(receiver_fsm::identity{cluster, 3, inc_, layout_print, 1000}, settings_);
  words_.clear();
  if (on_start) on_start(fsm_->summarize());
}

void receiver_fuzz::plan_delta(txn_ref txn) {
  const auto held = fsm_->summarize().tag;
  const version_ref any{txn.run, below(txn.seq)};
  const bool fits = !one_in(5);
  const auto base = fits && held.version.run == txn.run ? held : info(any);
  const auto target = info({txn.run, one_in(30) ? txn.seq + 1 : txn.seq});
  const envelope env{cluster, txn, inc_};
  manifest m{layout_print, 0, 1, {}};
  std::vector<wire_message> buckets;
  for (std::uint32_t i = 0; i < below(4); ++i) {
    const auto bytes = bytes_of(txn.seq + i, 1 + below(9));
    m.bytes += bytes.size();
    m.buckets.push_back({bytes.size(), hash_of(bytes)});
    if (one_in(9)) buckets.emplace_back(bucket_msg{env, one_in(2) ? i : 7, bytes_of(99, 3)});
    buckets.emplace_back(bucket_msg{env, i, bytes});
    if (one_in(9)) buckets.emplace_back(bucket_msg{env, one_in(2) ? i : 7, bytes_of(99, 3)});
  }
  if (one_in(12)) ++m.bytes;
  const auto challenge = below(1000);
  for (std::uint32_t round = 3; round > 1; --round)
    said_.emplace_back(redo_msg{env, target, m, challenge, round});
  said_.emplace_back(abort_msg{env});
  said_.emplace_back(commit_msg{env, one_in(9) ? digest{} : target.state, challenge, 1});
  said_.insert(said_.end(), buckets.begin(), buckets.end());
  said_.emplace_back(prepare_msg{env, base.version, base.state, target, m});
}

/// A transaction of some run, with everything that will ever be said of it.
void receiver_fuzz::plan() {
  const auto run = 1 + below(one_in(3) ? 3 : 1 + lives_ % 3);
  const txn_ref txn{run, seq_[run] += 2};
  const envelope env{one_in(25) ? cluster + 1 : cluster, txn, inc_};
  if (one_in(2)) {
    plan_delta(txn);
    return;
  }
  const auto held = fsm_->summarize().tag.version;
  const version_ref any{run, below(txn.seq)};
  const auto target = info(one_in(2) && held.run == run ? held : any);
  if (one_in(2)) {
    const auto layout = one_in(9) ? hash128{} : layout_print;
    said_.emplace_back(attach_msg{env, target, layout, below(1000)});
    return;
  }
  manifest m{layout_print, 0, 1, {}};
  std::vector<wire_message> buckets;
  for (std::uint32_t i = 0; i < below(4); ++i) {
    const auto bytes = bytes_of(txn.seq + i, 1 + below(9));
    m.bytes += bytes.size();
    m.buckets.push_back({bytes.size(), hash_of(bytes)});
    if (one_in(9)) buckets.emplace_back(bucket_msg{env, one_in(2) ? i : 7, bytes_of(99, 3)});
    buckets.emplace_back(bucket_msg{env, i, bytes});
    if (one_in(9)) buckets.emplace_back(bucket_msg{env, one_in(2) ? i : 7, bytes_of(99, 3)});
  }
  if (one_in(4)) ++m.bytes;
  said_.insert(said_.end(), buckets.begin(), buckets.end());
  const bool catch_up = one_in(2);
  said_.emplace_back(full_begin_msg{env, target, m, below(1000), catch_up});
  if (!catch_up || one_in(3)) return;
  // What it follows: an attach that finds other bytes.
  auto before = env;
  before.txn.seq = txn.seq - 1;
  said_.emplace_back(attach_msg{before, info(any), layout_print, below(1000)});
}

receiver_fuzz::actions receiver_fuzz::handle(const wire_message& m) {
  auto& f = *fsm_;
  if (const auto* x = std::get_if<attach_msg>(&m)) return f.on_attach(now_, *x);
  if (const auto* x = std::get_if<full_begin_msg>(&m)) return f.on_full_begin(now_, *x);
  if (const auto* x = std::get_if<prepare_msg>(&m)) return f.on_prepare(now_, *x);
  if (const auto* x = std::get_if<commit_msg>(&m)) return f.on_commit(now_, *x);
  if (const auto* x = std::get_if<abort_msg>(&m)) return f.on_abort(now_, *x);
  if (const auto* x = std::get_if<redo_msg>(&m)) return f.on_redo(now_, *x);
  if (const auto* x = std::get_if<ping_msg>(&m)) return f.on_ping(now_, *x);
  if (const auto* x = std::get_if<bucket_msg>(&m))
    return f.on_bucket(now_, x->env, x->index, x->bytes.size(), hash_of(x->bytes));
  return {};
}

receiver_fuzz::word receiver_fuzz::applied(txn_ref txn, const target_info& target) {
  if (one_in(4))
    return [txn](receiver_fsm& f) { return f.on_write_failed(txn, errc::apply_failed, "no"); };
  const auto state = one_in(6) ? digest{1, 1} : target.state;
  return [txn, state](receiver_fsm& f) { return f.on_applied(txn, state, {3, 4}); };
}

receiver_fuzz::word receiver_fuzz::answer_of(const receiver_action::any& a) {
  if (const auto* x = std::get_if<act::verify_slot>(&a)) {
    const errc all[] = {errc::none, errc::none, errc::none, errc::wrong_base, errc::no_memory};
    return [txn = x->txn, why = all[below(5)]](receiver_fsm& f) {
      return f.on_verified(txn, why, {});
    };
  }
  if (const auto* x = std::get_if<act::check_slot>(&a))
    return [txn = x->txn, why = one_in(4) ? errc::no_memory : errc::none](receiver_fsm& f) {
      return f.on_verified(txn, why, {});
    };
  if (const auto* x = std::get_if<act::apply_slot>(&a)) return applied(x->txn, x->target);
  if (const auto* x = std::get_if<act::finish_full>(&a)) return applied(x->txn, x->target);
  if (const auto* x = std::get_if<act::write_bucket>(&a)) {
    if (one_in(9))
      return [txn = x->txn](receiver_fsm& f) {
        return f.on_write_failed(txn, errc::apply_failed, "no");
      };
    return [txn = x->txn, index = x->index](receiver_fsm& f) {
      return f.on_bucket_written(txn, index);
    };
  }
  if (const auto* x = std::get_if<act::compute_digest>(&a)) {
    auto state = fsm_->summarize().tag.state;
    if (const auto now = fsm_->summarize(); one_in(2) && now.attaching)
      state = now.attaching->target.state;
    if (one_in(6)) state = {2, 2};
    return [txn = x->txn, state](receiver_fsm& f) { return f.on_digest(txn, state, {3, 4}); };
  }
  return {};
}

void receiver_fuzz::perform(actions list, receiver_step& step) {
  for (const auto& a : list) {
    if (const auto* r = std::get_if<act::reply>(&a)) step.replies.push_back(r->message);
    if (const auto* p = std::get_if<act::pause>(&a); p && one_in(9)) {
      perform(fsm_->on_write_failed(p->txn, errc::hook_failed, "no"), step);
      return;
    }
    if (auto said = answer_of(a)) {
      if (one_in(2)) {
        words_.push_back(std::move(said));
      } else {
        perform(said(*fsm_), step);
      }
    }
  }
}

void receiver_fuzz::step() {
  if (one_in(500)) be_born();
  if (one_in(50)) lazy_ = one_in(2) ? 3 : 30;
  if (said_.size() > 200) said_.erase(said_.begin(), said_.begin() + 100);
  if (said_.empty() || one_in(12)) plan();
  receiver_step s;
  s.before = fsm_->summarize();
  now_ += std::chrono::milliseconds(1);
  if (!words_.empty() && one_in(lazy_)) {
    const auto at = words_.begin() + static_cast<std::ptrdiff_t>(below(words_.size()));
    const auto said = *at;
    words_.erase(at);
    s.executor = true;
    perform(said(*fsm_), s);
  } else if (one_in(40)) {
    if (one_in(2)) now_ += std::chrono::hours(1);
    perform(fsm_->on_tick(now_), s);
  } else if (one_in(40)) {
    s.event = ping_msg{cluster, inc_, {1 + below(3), below(9)}};
    perform(handle(*s.event), s);
  } else {
    // Mostly what was said last, in order; sometimes anything that was ever said.
    const auto back =
        one_in(4) ? below(said_.size()) : below(std::min<std::size_t>(3, said_.size()));
    const auto at = said_.end() - 1 - static_cast<std::ptrdiff_t>(back);
    s.event = *at;
    if (one_in(2) && said_.size() > 1) said_.erase(at);
    perform(handle(*s.event), s);
  }
  s.after = fsm_->summarize();
  if (on_step) on_step(s);
}

}  // namespace lockstep::sim
