#include "actors/trainer.hpp"

#include <algorithm>
#include <thread>

#include "actors/patience.hpp"
#include "actors/runtime_parts.hpp"
#include "messages/wire_stream.hpp"
#include "protocol/deadlines.hpp"
#include "weights/bucket_codec.hpp"

namespace lockstep {

namespace {

using std::chrono::milliseconds;

/// The sum of all deadlines that a sync can run into, one after the other: a transaction of
/// admissions that it has to wait for, its own rounds, and the recovery.
milliseconds sync_patience(const settings& s, std::uint64_t model_bytes) {
  const auto scan = transfer_time(s, model_bytes);
  const auto attach = milliseconds(s.sync.attach_timeout_ms) + scan;
  const auto full = full_timeout(s, 2 * model_bytes);
  const auto stage = stage_timeout(s, {2 * model_bytes, model_bytes}, model_bytes);
  const auto commit = milliseconds(s.sync.commit_timeout_ms) + scan;
  const auto recovery = milliseconds(s.sync.recovery_timeout_ms) + scan;
  const auto ranks = s.transport.ranks > 1 ? 3 * (recovery + scan) : milliseconds(0);
  return ranks + 3 * (attach + full) + stage + (s.sync.redo_max + 1) * (commit + stage) + recovery +
         answer_timeout;
}

template <class Answer>
Answer wait_for(std::future<Answer>& answer, milliseconds patience, const char* what) {
  if (answer.wait_for(patience_of(patience)) != std::future_status::ready)
    throw error(errc::timeout, std::string(what) + ": the runtime does not answer");
  try {
    return answer.get();
  } catch (const std::future_error&) {  // whoever was asked has ended
    throw error(errc::shut_down, std::string(what) + ": the runtime has ended");
  }
}

observation observe(runtime& on, question what, milliseconds patience) {
  auto promise = std::make_shared<std::promise<observation>>();
  auto answer = promise->get_future();
  caf::anon_send(on.inside().supervisor, observe_request{what, [promise](observation seen) {
                                                           promise->set_value(std::move(seen));
                                                         }});
  return wait_for(answer, patience, "receivers");
}

/// All weights of this layout can be announced to a receiver over a link: their manifest is one
/// message, with room for what else is in it, and for a bucket more of each rank.
void require_announceable(const settings& s, const layout& shape) {
  if (s.transport.listen.empty()) return;
  tensor_views sizes;
  for (std::size_t i = 0; i < shape.count(); ++i)
    sizes.push_back({{nullptr, shape.bytes(i)}, unit_bytes(shape[i].type)});
  const auto buckets = full_cut(sizes, s.bucket.bytes_max).count() + s.transport.ranks;
  constexpr std::uint64_t rest = 4096;
  const auto most = std::min<std::uint64_t>((control_bytes_max - rest) / bucket_info_bytes,
                                            s.receiver.buckets_max);
  if (buckets > most)
    throw setting_error("bucket.bytes_max is " + std::to_string(s.bucket.bytes_max) +
                        ": all weights are " + std::to_string(buckets) +
                        " buckets, of which receivers take at most " + std::to_string(most) +
                        " at a time; every process needs it larger");
}

}  // namespace

bool ticket::done() const {
  return state_->wait_report(milliseconds(0)).has_value();
}

sync_report ticket::wait() const {
  if (auto report = state_->wait_report(state_->patience())) return *std::move(report);
  throw error(errc::timeout, "a sync has not ended within the sum of its deadlines");
}

std::optional<sync_report> ticket::wait_for(milliseconds timeout) const {
  return state_->wait_report(timeout);
}

trainer::trainer(runtime& on, layout shape)
    : trainer(on, shape,
              even_shard(shape, on.options().transport.rank, on.options().transport.ranks)) {}

trainer::trainer(runtime& on, layout shape, shard_mask owned)
    : on_(on), shape_(std::move(shape)), owned_(std::move(owned)) {
  if (owned_.size() != shape_.count())
    throw error(errc::wrong_layout, "a mask of another number of tensors");
  require_announceable(on_.options(), shape_);
  part_ = shard_layout(shape_, owned_);
  if (!on_.inside().claim_trainer())
    throw error(errc::bad_input, "this runtime has a trainer already");
}

void trainer::stop() {
  caf::anon_send(on_.inside().supervisor, end_request{});
}

trainer::~trainer() {
  stop();
  on_.inside().unclaim_trainer();
}

// Whoever failed in the last sync can be brought back after the next one.
void trainer::conclude_last() {
  if (!last_ || last_->done()) return;
  caf::anon_send(on_.inside().supervisor, hurry_request{});
  last_->wait();
}

version_ref trainer::seed(const tensor_reader& tensors, std::uint64_t label,
                          std::optional<milliseconds> patience) {
  conclude_last();
  const auto for_ranks = patience_of(patience.value_or(rank_patience(on_.options())));
  auto& inside = on_.inside();
  boot_request m;
  m.run = inside.next_run();
  m.store = std::make_shared<snapshot_store>(part_, shard_reader(tensors, owned_), label,
                                             on_.options().sync.history_percent);
  m.shape = shape_;
  m.owned = owned_;
  m.deadline = std::chrono::steady_clock::now() + for_ranks;
  m.answer = std::make_shared<std::promise<version_ref>>();
  auto answer = m.answer->get_future();
  caf::anon_send(inside.supervisor, std::move(m));
  const auto own = answer_timeout + transfer_time(on_.options(), shape_.total_bytes());
  return wait_for(answer, own + for_ranks, "seed");
}

ticket trainer::sync(std::uint64_t label, const tensor_reader& tensors) {
  conclude_last();
  const auto patience = sync_patience(on_.options(), shape_.total_bytes());
  auto state = std::make_shared<ticket_state>(patience);
  caf::anon_send(on_.inside().supervisor,
                 sync_request{label, shard_reader(tensors, owned_), state});
  if (!state->wait_read(patience))
    throw error(errc::timeout, "sync: the runtime does not read the tensors");
  last_.emplace(std::move(state));
  return *last_;
}

errc trainer::ended_by() const {
  return observe(on_, question::status, answer_timeout).end.reason;
}

std::vector<receiver_status> trainer::receivers() const {
  return observe(on_, question::status, answer_timeout).states;
}

relay_report trainer::relays() const {
  return observe(on_, question::status, answer_timeout).relays;
}

std::vector<receiver_audit> trainer::audit() const {
  const auto& s = on_.options();
  const auto work =
      milliseconds(s.sync.commit_timeout_ms) + 4 * transfer_time(s, shape_.total_bytes());
  return observe(on_, question::audit, answer_timeout + work).audits;
}

bool trainer::wait_for_members(std::size_t count, milliseconds timeout) const {
  const auto until = std::chrono::steady_clock::now() + patience_of(timeout);
  for (std::uint32_t looks = 0;; ++looks) {
    const auto seen = observe(on_, question::status, answer_timeout);
    if (seen.end.reason != errc::none) return false;
    const auto members = std::ranges::count_if(seen.states, &receiver_status::member);
    if (static_cast<std::size_t>(members) >= count) return true;
    if (std::chrono::steady_clock::now() >= until) return false;
    std::this_thread::sleep_for(wait_after(looks, 1, 32));
  }
}

}  // namespace lockstep
