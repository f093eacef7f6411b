#include "weights/rank_publisher.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <system_error>
#include <thread>
#include <utility>

#include "messages/one_line.hpp"
#include "messages/transient.hpp"
#include "weights/acknowledgement.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/plain_file.hpp"
#include "weights/published_shards.hpp"
#include "weights/rank_part.hpp"
#include "weights/rank_proof.hpp"
#include "weights/state_digest.hpp"
#include "weights/stream_owner.hpp"
#include "weights/unwritable.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

using clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds poll_every(10);

// The digest of each rank's tensors in a version of as many ranks; else none.
std::vector<std::string> rank_digests_in(const fs::path& dir, std::uint32_t ranks) {
  return rank_digests(metadata_in(dir, own_key::rank_targets), ranks);
}

// The first of `files`, ascending, whose name begins so; null if there is none.
const fs::path* first_of(const std::vector<fs::path>& files, const fs::path& prefix) {
  const auto at = std::lower_bound(files.begin(), files.end(), prefix);
  return at != files.end() && at->native().starts_with(prefix.native()) ? &*at : nullptr;
}

template <class Numbers>
std::string listed(const Numbers& ranks) {
  return fmt::format("rank{} {}", ranks.size() == 1 ? "" : "s", fmt::join(ranks, ", "));
}

// The plan that stands in `staging`; nothing if there is none, or it cannot be read for now.
std::optional<rank_plan> plan_now(const fs::path& staging, std::string& problem) {
  try {
    return read_plan(staging);
  } catch (const error& e) {
    problem = e.what();
    return std::nullopt;
  }
}

}  // namespace

struct rank_publisher::written {
  rank_part part;
  std::vector<std::string> digests;  // of the target's tensors
  std::uint64_t bytes = 0;
};

rank_publisher::rank_publisher(rank_options options)
    : options_(std::move(options)), staging_(rank_staging(options_.stream.out)) {
  if (options_.ranks == 0 || options_.ranks > ranks_max || options_.rank >= options_.ranks)
    throw error(errc::bad_input, fmt::format("there is no rank {} of {}: 1 to {} ranks, from 0",
                                             options_.rank, options_.ranks, ranks_max));
  tag_ = fresh_nonce();
  if (options_.rank == 0) owner_ = std::make_unique<stream_owner>(options_.stream);
}

rank_publisher::~rank_publisher() = default;

published_version rank_publisher::add(std::uint64_t version, std::uint64_t base_version,
                                      const published_source& base, const published_source& target,
                                      const version_options& special) {
  return owner_ ? lead(version, base_version, base, target, special)
                : follow(version, base_version, base, target);
}

const std::string& rank_publisher::run() const noexcept {
  return owner_ ? owner_->options().run : options_.stream.run;
}

// After an interruption every rank finds by itself what is there. Of a version that was written by
// other ranks, or by one process, it cannot tell; the next delta's base is compared.
bool rank_publisher::is_published(std::uint64_t version, const published_source& target,
                                  bool served) {
  const auto dir = published_dir(options_.stream.out, version);
  if (!has_index(dir)) return false;
  std::vector<std::string> there;
  try {
    there = rank_digests_in(dir, options_.ranks);
  } catch (const error&) {
    if (has_index(dir)) throw;
    return false;  // removed as old while it was read
  }
  if (there.empty() && served)
    refuse(errc::unwritable, dir, "is published, but not by as many ranks as take part");
  if (there.empty()) return true;
  if (digests_of_ != version) digests_ = target.digests();
  digests_of_ = version;
  if (there[options_.rank] == state_digest(target.shape, digests_)) return true;
  refuse(errc::unwritable, dir,
         fmt::format("is published already, and not with these weights of rank {}", options_.rank));
}

// This rank's shards, beside the plan.
rank_publisher::written rank_publisher::write(const rank_plan& plan, const published_source& base,
                                              const published_source& target) const {
  const auto dir = published_dir(options_.stream.out, plan.version);
  written out;
  out.part.plan = plan.nonce;
  out.part.rank = options_.rank;
  if (digests_of_ == plan.base_version && !plan.full) out.digests = digests_;
  out.digests.resize(target.shape.count());
  auto how = options_.stream.how;
  how.encoding = plan.encoding;
  how.checksum = plan.checksum;
  how.digests = &out.digests;
  how.done = done_of(base, target);
  require_publishable(dir, plan.version, how);
  if (!plan.full) require_earlier(dir, plan.version, plan.base_version);
  auto shards = plan.full ? version_shards(target.shape, target.tensors, how)
                          : version_shards(dir, target.shape, base.tensors, target.tensors, how);
  for (std::size_t s = 0; s < shards.count(); ++s) {
    const auto name =
        fmt::format("{}{}-{:05}.safetensors", rank_prefix(options_.rank, plan.nonce), tag_, s);
    out.bytes += shards.write(s, staging_ / name);
    out.part.shards.push_back({name, shards.names(s)});
  }
  const auto& before = shards.finish();
  for (std::size_t i = 0; i < target.shape.count(); ++i)
    out.part.tensors.push_back(
        {target.shape[i], plan.full ? std::string() : before[i], out.digests[i]});
  return out;
}

// --- rank 0 -------------------------------------------------------------------------------------

published_version rank_publisher::lead(std::uint64_t version, std::uint64_t base_version,
                                       const published_source& base, const published_source& target,
                                       const version_options& special) {
  const auto& stream = owner_->path();
  published_version out;
  out.version = version;
  out.full = special.full || owner_->makes_full(version);
  out.gone = owner_->gone(version);
  if (out.gone) return out;
  out.there = is_published(version, target, false);
  if (out.there) {
    owner_->require_run(published_dir(stream, version));
    if (version >= owner_->newest()) out.removed = owner_->prune(version);
    return out;
  }
  if (!out.full) owner_->require_base(base_version);
  const auto& how = owner_->options().how;
  const rank_plan plan{fresh_nonce(), version,      base_version, owner_->options().run,
                       out.full,      how.encoding, how.checksum, options_.ranks};
  begin_staging(stream, plan);
  try {
    auto own = write(plan, base, target);
    std::vector<rank_part> parts(options_.ranks);
    parts[0] = std::move(own.part);
    collect(plan, parts);
    out.bytes = publish(plan, parts, target, special);
    digests_ = std::move(own.digests);
    digests_of_ = version;
  } catch (const error& e) {
    refuse_aloud(plan, e);
    throw;
  } catch (...) {
    abandon();
    throw;
  }
  remove_rank_staging(stream);
  out.removed = owner_->prune(version);
  return out;
}

// Nobody need serve a plan that has failed. Why it did is what is reported.
void rank_publisher::abandon() const noexcept {
  try {
    remove_rank_staging(owner_->path());
  } catch (...) {
    return;  // cleared by who comes next
  }
}

// So that the others end with the reason, and not when they have waited in vain. What may go well
// when it is tried again they wait for.
void rank_publisher::refuse_aloud(const rank_plan& plan, const error& why) const noexcept {
  const bool for_good = why.code() == errc::bad_input || why.code() == errc::wrong_layout ||
                        why.code() == errc::wrong_base;
  if (!for_good || is_transient(why) || options_.ranks == 1) return abandon();
  try {
    const auto own = rank_prefix(options_.rank, plan.nonce);
    for (const auto& file : files_in(staging_))
      if (file.filename().native().starts_with(own)) remove_file(file);
    clear_orders(staging_);
    write_refusal(staging_, {plan.nonce, why.what()});
  } catch (...) {
    abandon();
  }
}

// What every other rank has to give, as it comes; of several of one rank, which was started again,
// any.
void rank_publisher::await_ranks(const rank_plan& plan, const taker& take) const {
  std::vector<std::uint32_t> missing;
  for (std::uint32_t r = 1; r < options_.ranks; ++r) missing.push_back(r);
  const auto until = clock::now() + options_.patience;
  for (;;) {
    std::vector<fs::path> there;
    for (auto& file : files_in(staging_))
      if (file.extension() == ".json") there.push_back(std::move(file));
    std::erase_if(missing, [&](std::uint32_t r) { return take(r, there); });
    if (missing.empty()) return;
    if (clock::now() > until)
      refuse(errc::timeout, published_dir(owner_->path(), plan.version),
             fmt::format("is not published: nothing came from {} within {} ms", listed(missing),
                         options_.patience.count()));
    std::this_thread::sleep_for(poll_every);
  }
}

void rank_publisher::collect(const rank_plan& plan, std::vector<rank_part>& parts) const {
  await_ranks(plan, [&](std::uint32_t r, const std::vector<fs::path>& files) {
    const auto* file = first_of(files, staging_ / rank_prefix(r, plan.nonce));
    if (file != nullptr) parts[r] = read_part(*file, plan, r);
    return file != nullptr;
  });
}

// What a host must prove: nobody else than all ranks together can say it, and only before the
// version is there, for then they may end.
digest rank_publisher::prove(const rank_plan& plan, const std::vector<rank_part>& parts,
                             const whole_state& whole, std::uint64_t challenge,
                             const published_source& target) const {
  const auto orders = orders_for(parts, whole, challenge);
  for (std::uint32_t r = 1; r < options_.ranks; ++r)
    write_order(staging_, plan.nonce, r, orders[r]);
  auto sum = share_of(orders[0], target);
  await_ranks(plan, [&](std::uint32_t r, const std::vector<fs::path>& files) {
    const auto* file = first_of(files, staging_ / share_prefix(r, plan.nonce));
    if (file == nullptr) return false;
    const auto share = read_share(*file);
    sum.lane0 += share.lane0;
    sum.lane1 += share.lane1;
    return true;
  });
  return sum;
}

// What the ranks start from must be what the version before leads to.
void rank_publisher::require_base(const rank_plan& plan, const std::vector<rank_part>& parts,
                                  const std::string& digest) const {
  const auto dir = published_dir(owner_->path(), plan.base_version);
  if (!has_index(dir)) return;
  const auto there = metadata_in(dir, own_key::target);
  if (there.empty() || there == digest) return;
  const auto each = rank_digests_in(dir, options_.ranks);
  std::vector<std::uint32_t> others;
  for (std::uint32_t r = 0; r < each.size(); ++r)
    if (base_digest(parts[r]) != each[r]) others.push_back(r);
  refuse(errc::wrong_base, dir,
         fmt::format("is not what {} from: version {} is not published",
                     others.empty() ? "the ranks start" : listed(others) + " would start",
                     plan.version));
}

std::uint64_t rank_publisher::publish(const rank_plan& plan, const std::vector<rank_part>& parts,
                                      const published_source& target,
                                      const version_options& special) {
  const auto& stream = owner_->path();
  const auto dir = published_dir(stream, plan.version);
  auto whole = merge_parts(dir, parts);
  if (whole.shape.count() == 0) refuse(errc::wrong_layout, dir, "no rank has a tensor");
  if (shape_) require_same(dir, *shape_, whole.shape);
  const auto base = plan.full ? std::string() : state_digest(whole.shape, whole.base);
  if (!plan.full) require_base(plan, parts, base);

  struct move {
    const rank_shard* shard;
    std::vector<std::string> names;  // of it, but for what an earlier rank has as well
  };
  std::vector<move> moves;
  std::vector<std::string> targets;
  for (std::size_t p = 0; p < parts.size(); ++p) {
    targets.push_back(target_digest(parts[p]));
    for (const auto& shard : parts[p].shards) {
      std::vector<std::string> names;
      std::ranges::set_difference(shard.tensors, whole.repeated[p], std::back_inserter(names));
      if (!names.empty()) moves.push_back({&shard, std::move(names)});
    }
  }
  auto how = owner_->options().how;
  how.metadata[std::string(own_key::rank_targets)] = fmt::format("{}", fmt::join(targets, ","));
  how.metadata.insert(special.metadata.begin(), special.metadata.end());
  if (const auto at = special.metadata.find(std::string(own_key::challenge));
      at != special.metadata.end()) {
    const auto challenge = parse_challenge(at->second).value();
    how.metadata[std::string(own_key::proof_seal)] =
        seal_of(challenge, prove(plan, parts, whole, challenge, target));
  }
  publication out(stream, plan.version);
  std::uint64_t bytes = 0;
  for (std::size_t m = 0; m < moves.size(); ++m) {
    const auto& [shard, names] = moves[m];
    const auto from = staging_ / shard->file;
    const auto to = out.add_shard(m, moves.size(), names);
    if (names.size() < shard->tensors.size()) {
      copy_tensors(from, to, names);
    } else {
      std::error_code failure;
      fs::rename(from, to, failure);
      if (failure) refuse_write(to, "cannot be moved into place", failure.value());
    }
    bytes += plain_file(to, plain_file::access::read).size();
  }
  auto metadata = plan.full ? full_metadata(plan.version, whole.shape.total_bytes())
                            : delta_metadata(plan.version, plan.base_version, how);
  if (plan.full) {
    for (const auto& file : target.companions) out.add_companion(file);
    bytes = whole.shape.total_bytes();
  } else {
    metadata[own_key::base] = base;
  }
  metadata[own_key::target] = state_digest(whole.shape, whole.target);
  sync_directory(dir);
  const auto index_bytes = out.publish(std::move(metadata), how.metadata);
  shape_ = std::move(whole.shape);
  return plan.full ? bytes : bytes + index_bytes;
}

// --- the other ranks ----------------------------------------------------------------------------

published_version rank_publisher::follow(std::uint64_t version, std::uint64_t base_version,
                                         const published_source& base,
                                         const published_source& target) {
  const auto& stream = options_.stream.out;
  const auto dir = published_dir(stream, version);
  published_version out;
  out.version = version;
  std::optional<written> own;
  std::string seen;   // the plan that was looked at last
  std::string other;  // in what it is another than this rank expects
  bool proven = false;
  auto until = clock::now() + options_.patience + options_.hosts_patience;
  for (bool first = true;; first = false) {
    if (is_published(version, target, own.has_value())) {
      out.there = !own;
      if (own) out.bytes = own->bytes;
      clear_own_files();
      return out;
    }
    const auto refusal = read_refusal(staging_);
    // Of a plan that this rank has not seen it may be of the past, as the plan may.
    if (own && refusal && refusal->plan == own->part.plan) {
      clear_own_files();
      refuse(errc::bad_input, dir, "is not published: rank 0 says " + one_line(refusal->why));
    }
    std::string unreadable;
    const auto plan = plan_now(staging_, unreadable);
    const auto nonce = plan ? plan->nonce : std::string();
    const bool fresh = nonce != seen;
    if (first || fresh) {
      out.gone = stands(stream) && version < newest_full_version(stream) && !has_index(dir);
      if (out.gone) return out;
    }
    if (std::exchange(seen, nonce) != nonce) other.clear();
    if (fresh && plan && plan->version == version) {
      other = objection(*plan, base_version);
      auto done = other.empty() ? serve(*plan, base, target) : std::nullopt;
      if (done) {
        own = std::move(done);
        out.full = plan->full;
        digests_ = own->digests;
        digests_of_ = version;
        proven = false;
        until = clock::now() + options_.patience;
      }
    }
    if (own && !proven && serve_order(*own, target)) {
      proven = true;
      until = clock::now() + options_.patience;
    }
    if (clock::now() > until) {
      if (!other.empty()) refuse(errc::bad_input, dir, other);
      refuse(errc::timeout, dir,
             fmt::format("is not published by rank 0 within {} ms{}", options_.patience.count(),
                         !unreadable.empty() ? ": " + unreadable
                         : refusal           ? ": it says " + one_line(refusal->why)
                         : plan && plan->version != version
                             ? fmt::format(": its plan is for version {}", plan->version)
                             : std::string()));
    }
    std::this_thread::sleep_for(poll_every);
  }
}

// Not at once: a plan that a killed rank 0 has left is of the past.
std::string rank_publisher::objection(const rank_plan& plan, std::uint64_t base_version) const {
  if (plan.ranks != options_.ranks)
    return fmt::format("rank 0 has {} ranks, rank {} has {}", plan.ranks, options_.rank,
                       options_.ranks);
  if (!plan.full && plan.base_version != base_version)
    return fmt::format("rank 0 starts from version {}, rank {} from {}", plan.base_version,
                       options_.rank, base_version);
  if (!options_.stream.run.empty() && plan.run != options_.stream.run)
    return fmt::format("rank 0 publishes the run {}, rank {} {}", in_quotes(plan.run),
                       options_.rank, in_quotes(options_.stream.run));
  return {};
}

// Nothing if the plan is no longer: what was written for it may be gone at any step.
std::optional<rank_publisher::written> rank_publisher::serve(const rank_plan& plan,
                                                             const published_source& base,
                                                             const published_source& target) const {
  try {
    auto out = write(plan, base, target);
    write_part(own_file(rank_prefix(options_.rank, plan.nonce)), out.part);
    return out;
  } catch (const error& e) {
    if (e.code() != errc::unwritable || !is_gone(plan.nonce)) throw;
    return std::nullopt;
  }
}

// Whether rank 0 has asked for this rank's share of the proof, and has it now. What it asks of
// another process of this rank, with other weights, is not this one's.
bool rank_publisher::serve_order(const written& own, const published_source& target) const {
  const auto order = read_order(staging_, own.part.plan, options_.rank);
  if (!order || order->part != target_digest(own.part) ||
      order->numbers.size() != own.part.tensors.size())
    return false;
  try {
    write_share(own_file(share_prefix(options_.rank, own.part.plan)), share_of(*order, target));
    return true;
  } catch (const error& e) {
    if (e.code() != errc::unwritable || !is_gone(own.part.plan)) throw;
    return false;
  }
}

fs::path rank_publisher::own_file(const std::string& prefix) const {
  return staging_ / (prefix + tag_ + ".json");
}

bool rank_publisher::is_gone(const std::string& nonce) const {
  std::string unreadable;
  const auto now = plan_now(staging_, unreadable);
  return !now || now->nonce != nonce;
}

// What was written for a plan that had gone; the directory as well, if nothing else is in it but
// why rank 0 refused, which nobody is left to read.
void rank_publisher::clear_own_files() const {
  std::error_code ignored;
  std::vector<fs::path> files;
  try {
    if (stands(staging_)) files = files_in(staging_);
  } catch (const error&) {
    return;  // went meanwhile
  }
  const auto left = std::partition(files.begin(), files.end(), [this](const fs::path& file) {
    return file.filename().native().find(tag_) == std::string::npos;
  });
  std::for_each(left, files.end(), [&](const fs::path& file) { fs::remove(file, ignored); });
  if (left == files.end()) return;
  try {
    clear_refusal(staging_);  // looks anew: others go, too
  } catch (const error&) {
    return;  // cleared by who comes next
  }
}

}  // namespace lockstep
