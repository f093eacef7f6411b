#include "actors/published_trainer.hpp"

#include <spdlog/spdlog.h>

#include <atomic>
#include <exception>
#include <optional>
#include <thread>
#include <utility>

#include "actors/published_fleet.hpp"
#include "actors/ticket_state.hpp"
#include "messages/errors.hpp"
#include "protocol/snapshot_fsm.hpp"
#include "weights/bucket_codec.hpp"
#include "weights/checkpoint.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/pull.hpp"
#include "weights/state_digest.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

/// The options of a fleet that also heeds these flags.
published_fleet_options heeding(published_fleet_options options, const std::atomic<bool>& stopped,
                                const std::atomic<bool>& hurried) {
  if (options.ranks != 1)
    throw error(errc::bad_input, "a published trainer holds all tensors, and is of no rank");
  const auto either = [](const std::atomic<bool>& flag, std::function<bool()> also) {
    return [&flag, also = std::move(also)] { return flag || (also && also()); };
  };
  options.stopped = either(stopped, std::move(options.stopped));
  options.hurried = either(hurried, std::move(options.hurried));
  return options;
}

// Every wait of a sync, and time for the files, which no deadline bounds.
std::chrono::milliseconds patience_for(const published_fleet_options& options) {
  return options.ack_timeout + options.recovery_timeout + std::chrono::hours(1);
}

}  // namespace

struct published_trainer::parts {
  parts(layout model, published_fleet_options options)
      : shape(std::move(model)),
        patience(patience_for(options)),
        fleet(heeding(std::move(options), stopped, hurried)) {}
  ~parts() {
    stopped = true;
    settle();
  }

  /// Waits for the sync under way.
  void settle() {
    if (concluding.joinable()) concluding.join();
  }
  /// The same, but for hosts that failed and may be back after the next one.
  void conclude_last() {
    hurried = true;
    settle();
    hurried = false;
  }
  bool is_running() const { return machine && !stopped && !failed; }
  fs::path dir_of(std::uint64_t version) const {
    return published_dir(fleet.stream().stream(), version);
  }
  published_source source(const tensor_reader& tensors) const {
    return {shape, tensors, [this, tensors] { return tensor_digests(shape, tensors); }, {}, {}};
  }
  bool holds(std::uint64_t version) const;
  sync_report conclude(published_fleet::pending p, std::uint64_t label);
  published_source advance(const target_info& goal, bool whole);

  layout shape;
  std::chrono::milliseconds patience;
  std::atomic<bool> stopped = false;
  std::atomic<bool> hurried = false;
  published_fleet fleet;
  weight_buffer snapshot;
  std::optional<snapshot_fsm> machine;
  std::atomic<bool> failed = false;  // the snapshot is not known to be what hosts hold
  std::thread concluding;
};

published_trainer::published_trainer(layout shape, published_fleet_options options)
    : parts_(std::make_unique<parts>(std::move(shape), std::move(options))) {}

published_trainer::~published_trainer() = default;

const layout& published_trainer::shape() const noexcept {
  return parts_->shape;
}

std::uint16_t published_trainer::port() const noexcept {
  return parts_->fleet.port();
}

bool published_trainer::is_running() const {
  return parts_->is_running();
}

void published_trainer::stop() noexcept {
  parts_->stopped = true;
}

std::uint64_t published_trainer::version() {
  parts_->settle();
  return parts_->fleet.held();
}

std::vector<std::string> published_trainer::absent() {
  parts_->settle();
  return parts_->fleet.absent();
}

sync_report published_trainer::seed(const tensor_reader& tensors, std::uint64_t label) {
  auto& p = *parts_;
  p.conclude_last();
  p.machine.reset();
  p.failed = false;
  weight_buffer fresh(p.shape);
  fresh.copy_from(p.shape, tensors);
  p.snapshot = std::move(fresh);
  const auto newest = newest_published(p.fleet.stream().stream()).value_or(0);
  p.fleet.hold(newest);
  sync_report report;
  report.label = label;
  report.result = sync_result::ok;
  report.full_bytes = p.shape.total_bytes();
  if (newest > 0 && !p.holds(newest)) {
    const auto here = p.source(reader_of(p.snapshot));
    report = p.fleet.conclude(p.fleet.publish(here, here, label, true), [&] { return here; });
    if (report.reason == errc::shut_down) return report;
  }
  report.target = p.fleet.name_of(p.fleet.held());
  p.machine.emplace(
      target_info{report.target, digest_of(public_digest_seed, views_of(p.snapshot)), label});
  return report;
}

bool published_trainer::parts::holds(std::uint64_t version) const {
  if (!has_index(dir_of(version))) return false;  // a lone file says no digest
  const auto index = read_index(dir_of(version));
  const auto said = index.metadata.find(std::string(own_key::target));
  return said != index.metadata.end() &&
         said->second == state_digest(shape, tensor_digests(shape, reader_of(snapshot)));
}

ticket published_trainer::sync(std::uint64_t label, const tensor_reader& tensors) {
  auto& p = *parts_;
  p.conclude_last();
  if (!p.is_running())
    throw error(errc::shut_down, "there is no snapshot that a sync could start from: seed first");
  auto pending = p.fleet.publish(p.source(reader_of(p.snapshot)), p.source(tensors), label);
  const auto state = std::make_shared<ticket_state>(p.patience);
  p.concluding = std::thread([&p, state, label, pending = std::move(pending)]() mutable {
    state->finish(p.conclude(std::move(pending), label));
  });
  return ticket(state);
}

sync_report published_trainer::parts::conclude(published_fleet::pending p, std::uint64_t label) {
  auto report = p.report;
  const target_info goal{report.target, p.answer.state, label};
  const auto whole = p.version.full;
  try {
    return fleet.conclude(std::move(p), [&] { return advance(goal, whole); });
  } catch (const std::exception& e) {
    failed = true;
    report.result = sync_result::degraded;
    report.reason = errc::encode_failed;
    report.detail = e.what();
    fleet.log().error("version {}: the snapshot could not follow it: {}", goal.version.number,
                      e.what());
    return report;
  }
}

published_source published_trainer::parts::advance(const target_info& goal, bool whole) {
  const auto dir = dir_of(goal.version.number);
  const txn_ref txn{goal.version.run, goal.version.number};
  if (whole)
    snapshot.copy_from(checkpoint::open(dir));
  else
    published_delta::open(dir, shape).apply(snapshot);
  // Decoding what was published and applying it are one step here, so both are proven at once.
  const auto now = digest_of(public_digest_seed, views_of(snapshot));
  if (!machine->on_stage(txn, machine->held().version, goal, now) || !machine->on_applied(txn, now))
    refuse(errc::encode_failed, dir, "does not lead to the trainer's weights");
  return source(reader_of(snapshot));
}

}  // namespace lockstep
