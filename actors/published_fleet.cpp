#include "actors/published_fleet.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <thread>
#include <utility>

#include "actors/log.hpp"
#include "messages/errors.hpp"
#include "weights/bucket_codec.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/rank_publisher.hpp"

namespace lockstep {

namespace {

using clock = std::chrono::steady_clock;

// Publishing decides at once, so there is one round a version.
constexpr std::uint32_t only_round = 1;
// Hosts have no lives here: what they say is fenced by the version and its challenge.
constexpr incarnation only_life{0, 1};

std::uint64_t fresh_challenge() {
  std::random_device random;
  return std::uint64_t{random()} << 32 | random();
}

std::unique_ptr<version_publisher> publisher_of(const published_fleet_options& options,
                                                std::function<std::uint64_t()> slowest) {
  auto stream = options.stream;
  stream.slowest = std::move(slowest);
  if (options.ranks == 1) return std::make_unique<publisher>(std::move(stream));
  return std::make_unique<rank_publisher>(
      rank_options{std::move(stream), 0, options.ranks, options.rank_patience, {}});
}

// The proof in an acknowledgement, or, where only its seal is known, what stands for the right one
// and for any other.
digest proof_in(const acknowledgement& said, const published_fleet::answer& wanted) {
  if (wanted.seal.empty()) return said.proof;
  const bool right = seal_of(wanted.challenge, said.proof) == wanted.seal;
  return right ? wanted.proof : digest{~wanted.proof.lane0, ~wanted.proof.lane1};
}

// Whom no delta of the chain leads on from what it has.
bool needs_whole(errc reason) {
  return reason == errc::wrong_base || reason == errc::false_ack || reason == errc::torn ||
         reason == errc::wrong_target;
}

std::string joined(const std::vector<std::string>& names) {
  std::string out;
  for (const auto& name : names) out += (out.empty() ? "" : ",") + name;
  return out;
}

}  // namespace

published_fleet::published_fleet(published_fleet_options options)
    : options_(std::move(options)),
      stream_(publisher_of(options_, [this] { return slowest(); })),
      cluster_(cluster_id(stream_->run())),
      log_(make_log(options_.options.log)) {
  if (options_.acks.empty()) options_.acks = acknowledgements_of(options_.stream.out);
  for (const auto& name : options_.receivers) {
    require_host_name(name);
    for (const auto& other : hosts_)
      if (other.name == name) throw error(errc::bad_input, in_quotes(name) + " is named twice");
    host h;
    h.who = {static_cast<receiver_id>(hosts_.size() + 1), only_life};
    h.name = name;
    hosts_.push_back(std::move(h));
  }
  if (!options_.listen.empty())
    inbox_ = std::make_unique<published_inbox>(options_.listen, options_.options,
                                               options_.receivers, options_.acks, log_);
}

std::vector<participant> published_fleet::view() const {
  std::vector<participant> out;
  for (const auto& h : hosts_)
    if (h.member) out.push_back(h.who);
  return out;
}

std::vector<std::string> published_fleet::absent() const {
  std::vector<std::string> out;
  for (const auto& h : hosts_)
    if (!h.member) out.push_back(h.name);
  return out;
}

published_fleet::host& published_fleet::host_of(const participant& who) {
  return hosts_[who.id - 1];
}

std::uint64_t published_fleet::slowest() const {
  auto out = held_;
  for (const auto& h : hosts_)
    if (h.member) out = std::min(out, h.proven);
  return out;
}

published_fleet::pending published_fleet::publish(const published_source& base,
                                                  const published_source& target,
                                                  std::uint64_t label, bool full) {
  // What an interrupted call published for some of the hosts changes no weights.
  while (has_meaning_for_some(held_ + 1)) ++held_;
  for (const auto& a : current_) take_back(a);
  pending out;
  out.started = clock::now();
  out.report.label = label;
  out.report.base = name_of(held_);
  out.report.full_bytes = target.shape.total_bytes();
  for (std::size_t i = 0; i < target.shape.count(); ++i)
    out.report.elements += target.shape.bytes(i) / unit_bytes(target.shape[i].type);
  const auto challenge = fresh_challenge();
  out.version =
      stream_->add(held_ + 1, held_, base, target,
                   {full, {{std::string(own_key::challenge), challenge_text(challenge)}}});
  out.report.target = name_of(out.version.version);
  out.answer.version = out.version.version;
  if (!is_concluded(out.version)) out.answer = answer_to(out.version.version, target);
  out.report.wire_bytes = out.report.sent_bytes = out.version.bytes;
  out.report.encode = clock::now() - out.started;
  return out;
}

bool published_fleet::has_meaning_for_some(std::uint64_t version) const {
  const auto dir = published_dir(stream_->stream(), version);
  return has_index(dir) && read_index(dir).metadata.contains(std::string(own_key::meant_for));
}

// Read back, since the version may have been there before this process.
published_fleet::answer published_fleet::answer_to(std::uint64_t version,
                                                   const published_source& target) const {
  const auto dir = published_dir(stream_->stream(), version);
  const auto challenge = challenge_in(dir);
  if (!challenge)
    refuse(errc::bad_input, dir, "was published for nobody in particular: it has no challenge");
  if (auto seal = metadata_in(dir, own_key::proof_seal); !seal.empty())
    return {version, *challenge, {}, {}, std::move(seal)};
  if (options_.ranks > 1)
    refuse(errc::bad_input, dir,
           "was not published by ranks: what hosts must prove takes all tensors to compute");
  const auto [state, proof] =
      digest_pair(public_digest_seed, *challenge, views_of(target.shape, target.tensors));
  if (target.done)
    for (std::size_t i = 0; i < target.shape.count(); ++i) target.done(i, 0, target.shape.bytes(i));
  return {version, *challenge, proof, state, {}};
}

// It was removed as old, or the next one was published: all that were waited for have acknowledged
// this one, or are out.
bool published_fleet::is_concluded(const published_version& version) const {
  return version.gone ||
         (version.there && has_index(published_dir(stream_->stream(), version.version + 1)));
}

std::optional<acknowledgement> published_fleet::heard_of(host& from) const {
  try {
    auto said = read_acknowledgement(options_.acks, from.name);
    from.unreadable.clear();
    return said;
  } catch (const error& e) {
    from.unreadable = e.what();
    return std::nullopt;
  }
}

std::optional<round_result> published_fleet::ask(const answer& wanted,
                                                 std::vector<participant> who) {
  const txn_ref txn{cluster_, wanted.version};
  auto result = join_.on_open({cluster_, txn, only_round, round_kind::commit, who, wanted.proof,
                               clock::now() + options_.ack_timeout});
  while (!result) {
    for (const auto& p : who) {
      const auto said = heard_of(host_of(p));
      if (result || !said || said->version != wanted.version || said->challenge != wanted.challenge)
        continue;
      const auto kind = said->reason == errc::none ? reply_kind::ack : reply_kind::nack;
      result = join_.on_reply({{cluster_, txn, p.inc},
                               p.id,
                               only_round,
                               kind,
                               said->reason,
                               said->detail,
                               proof_in(*said, wanted)});
    }
    if (!result) result = join_.on_tick(clock::now());
    if (!result && is_stopped()) return std::nullopt;
    if (!result) std::this_thread::sleep_for(options_.poll);
  }
  return result;
}

bool published_fleet::is_stopped() const {
  return options_.stopped && options_.stopped();
}

bool published_fleet::is_hurried() const {
  return options_.hurried && options_.hurried();
}

void published_fleet::take_back(const answer& wanted) {
  for (auto& h : hosts_) {
    if (h.member) continue;
    const auto said = heard_of(h);
    if (!said || said->version != wanted.version || said->challenge != wanted.challenge) continue;
    if (said->reason != errc::none || proof_in(*said, wanted) != wanted.proof) {
      h.needs_whole = h.given_whole < wanted.version &&
                      (said->reason == errc::none || needs_whole(said->reason));
      continue;
    }
    h.member = true;
    h.needs_whole = false;
    h.proven = wanted.version;
  }
}

void published_fleet::settle(const outcome& o, sync_report& report) {
  auto& h = host_of(o.who);
  participant_report line;
  line.id = o.who.id;
  line.name = h.name;
  line.status = o.status;
  line.reason = o.reason;
  line.detail = o.status == terminal::timeout && !h.unreadable.empty() ? h.unreadable : o.detail;
  if (o.status == terminal::ok) {
    h.proven = report.target.number;
  } else {
    h.member = false;
    h.needs_whole = needs_whole(o.reason);
    if (report.reason == errc::none) report.reason = o.reason;
  }
  report.participants.push_back(std::move(line));
}

sync_report published_fleet::conclude(pending p, const std::function<published_source()>& advance) {
  auto& report = p.report;
  const auto waiting = clock::now();
  const bool concluded = is_concluded(p.version);
  auto result = ask(p.answer, concluded ? std::vector<participant>() : view());
  report.commit = clock::now() - waiting;
  if (!result) {
    report.result = sync_result::aborted;
    report.reason = errc::shut_down;
    report.detail =
        fmt::format("stopped while version {} waited for its acknowledgements", p.answer.version);
    report.total = clock::now() - p.started;
    return std::move(report);
  }
  for (const auto& o : result->outcomes) settle(o, report);
  if (!concluded && !join_.all_ok(result->txn, view()))
    throw error(errc::false_ack, "a host is in the view that did not acknowledge");
  const auto source = advance();
  held_ = p.answer.version;
  current_.clear();
  if (!concluded) current_.push_back(p.answer);
  recover(report, source);
  report.total = clock::now() - p.started;
  return std::move(report);
}

void published_fleet::recover(sync_report& report, const published_source& source) {
  const auto began = clock::now();
  for (const auto& a : current_) take_back(a);
  reseed(report, source);
  const auto absent = [&] {
    return std::any_of(report.participants.begin(), report.participants.end(),
                       [&](const auto& line) { return !hosts_[line.id - 1].member; });
  };
  const auto failed = absent();
  const auto until = began + options_.recovery_timeout;
  while (true) {
    for (const auto& a : current_) take_back(a);
    if (!absent() || is_stopped() || is_hurried() || clock::now() >= until) break;
    std::this_thread::sleep_for(options_.poll);
  }
  if (failed) report.recover = clock::now() - began;
  for (auto& line : report.participants) {
    const auto& h = hosts_[line.id - 1];
    line.member = h.member;
    line.version = name_of(h.proven);
  }
  report.result = !failed     ? sync_result::ok
                  : !absent() ? sync_result::recovered
                              : sync_result::degraded;
}

void published_fleet::reseed(sync_report& report, const published_source& source) {
  std::vector<std::string> names;
  for (const auto& h : hosts_)
    if (!h.member && h.needs_whole) names.push_back(h.name);
  // No rank has all weights, and the others are at the next version.
  if (!options_.reseed || options_.ranks > 1 || names.empty()) return;
  const auto made =
      stream_->add(held_ + 1, held_, source, source,
                   {true,
                    {{std::string(own_key::challenge), challenge_text(fresh_challenge())},
                     {std::string(own_key::meant_for), joined(names)}}});
  held_ = made.version;
  current_.push_back(answer_to(made.version, source));
  report.reseed_bytes += made.bytes;
  for (auto& line : report.participants)
    if (hosts_[line.id - 1].needs_whole) ++line.reseeds;
  for (auto& h : hosts_)
    if (std::exchange(h.needs_whole, false)) h.given_whole = held_;
}

}  // namespace lockstep
