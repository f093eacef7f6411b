#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>

#include "actors/receiver.hpp"
#include "actors/trainer.hpp"
#include "apps/audit.hpp"
#include "apps/commands.hpp"
#include "apps/exit_codes.hpp"
#include "apps/progress_bar.hpp"
#include "apps/replay_output.hpp"
#include "weights/checkpoint.hpp"
#include "weights/weight_stream.hpp"

namespace lockstep {

namespace {

namespace fs = std::filesystem;

struct replay_options {
  settings_options settings;
  std::string base;
  std::string stream;
  std::string out;
  std::uint32_t receivers = 4;
  std::vector<std::string> inject;
  bool json = false;
};

/// More copies of the weights than this in one process is a slip of the keyboard.
constexpr std::uint32_t receivers_max = 1024;
/// A sync that was aborted wrote nothing anywhere; the trainer may simply try again.
constexpr int attempts_max = 4;

std::vector<fault> parse_faults(const replay_options& o, const weight_stream& stream) {
  std::vector<fault> out;
  for (const auto& text : o.inject) {
    const auto f = parse_fault(text);
    if (!f)
      throw error(errc::bad_input,
                  "--inject " + text +
                      ": expected KIND@VERSION:RECEIVER with KIND one of stage-fail, "
                      "apply-fail, crash, corrupt-frame, no-reply, false-ok");
    const auto& versions = stream.versions();
    if (std::none_of(versions.begin(), versions.end(),
                     [&](const auto& v) { return v.version == f->label; }))
      throw error(errc::bad_input,
                  "--inject " + text + ": the stream has no version " + std::to_string(f->label));
    if (f->receiver >= o.receivers)
      throw error(errc::bad_input, "--inject " + text + ": receivers are counted from 0 to " +
                                       std::to_string(o.receivers - 1));
    out.push_back(*f);
  }
  return out;
}

fs::path out_file(const replay_options& o, receiver_id id) {
  return fs::path(o.out) / ("receiver-" + std::to_string(id)) / "model.safetensors";
}

/// Fails before the work, not after it, if the results could not be written.
void check_out(const replay_options& o) {
  if (o.out.empty()) return;
  std::error_code failed;
  fs::create_directories(o.out, failed);
  if (failed) throw error(errc::unwritable, o.out + ": " + failed.message());
  const auto probe = fs::path(o.out) / ".lockstep-probe";
  try {
    write_safetensors(probe, weight_buffer(layout({{"probe", dtype::u8, {1}}})));
  } catch (const error& e) {
    throw error(errc::unwritable, o.out + ": cannot be written to (" + e.what() + ")");
  }
  fs::remove(probe, failed);
}

/// The last version's bytes, folded afresh from the files: nothing of the run goes into it.
std::vector<hash128> target_hashes(const replay_options& o) {
  const auto base = checkpoint::open(o.base);
  const auto stream = weight_stream::open(o.stream, base.shape());
  weight_buffer target(base.shape());
  target.copy_from(base);
  for (std::size_t i = 0; i < stream.versions().size(); ++i) stream.load(i, target);
  return tensor_hashes(target.shape(), reader_of(target));
}

class replay {
 public:
  explicit replay(const replay_options& o)
      : options_(o),
        base_(checkpoint::open(o.base)),
        stream_(weight_stream::open(o.stream, base_.shape())),
        faults_(std::make_shared<fault_plan>(parse_faults(o, stream_))),
        output_(o.json) {
    check_out(o);
  }

  int run() {
    const auto settings = options_.settings.load().build();
    runtime_.emplace(settings);
    weight_buffer weights(base_.shape());
    weights.copy_from(base_);
    trainer trainer(*runtime_, base_.shape());
    start_receivers();
    trainer.seed(weights);
    wait_for_all(trainer, settings);
    const auto started = std::chrono::steady_clock::now();
    output_.start("replaying " + std::to_string(stream_.versions().size()) + " versions of " +
                  std::to_string(base_.shape().count()) + " tensors (" +
                  human_bytes(base_.shape().total_bytes()) + ") to " +
                  std::to_string(options_.receivers) + " receivers");
    bool complete = true;
    {
      progress_bar bar(stream_.versions().size());
      for (std::size_t i = 0; i < stream_.versions().size(); ++i)
        complete = play(trainer, i, weights, bar) && complete;
    }
    summary_.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    return conclude(trainer, complete);
  }

 private:
  void start_receivers() {
    for (receiver_id id = 0; id < options_.receivers; ++id) {
      auto& copy = copies_.emplace_back(base_.shape());
      copy.copy_from(base_);
      receiver_options ro;
      ro.id = id;
      ro.faults = faults_;
      for (std::size_t i = 0; i < copy.shape().count(); ++i) ro.memory.push_back(copy.tensor(i));
      receivers_.push_back(std::make_unique<receiver>(*runtime_, base_.shape(), std::move(ro)));
    }
  }

  void wait_for_all(const trainer& trainer, const settings& s) const {
    const auto patience = std::chrono::milliseconds(s.sync.attach_timeout_ms) * 2 +
                          std::chrono::milliseconds(s.sync.full_timeout_ms);
    if (trainer.wait_for_members(options_.receivers, patience)) return;
    for (const auto& r : trainer.receivers())
      if (!r.member)
        throw error(errc::unreachable, r.name + " did not attach: " +
                                           std::string(to_string(r.reason)) + " " + r.detail);
    throw error(errc::unreachable, "a receiver did not announce itself");
  }

  /// One version; false if somebody is not at it in the end.
  bool play(trainer& trainer, std::size_t index, weight_buffer& weights, progress_bar& bar) {
    const auto version = stream_.versions()[index].version;
    bar.show(index, "reading version " + std::to_string(version));
    stream_.load(index, weights);
    for (int attempt = 1;; ++attempt) {
      bar.show(index, "syncing version " + std::to_string(version));
      const auto report = trainer.sync(version, weights).wait();
      bar.clear();
      output_.sync(report, held_, trainer.receivers());
      ++summary_.attempts;
      summary_.sent_bytes += report.sent_bytes;
      summary_.reseed_bytes += report.reseed_bytes;
      if (report.result == sync_result::aborted) {
        if (attempt < attempts_max) continue;
        return false;
      }
      ++summary_.syncs;
      summary_.wire_bytes += report.wire_bytes;
      summary_.full_bytes += report.full_bytes;
      held_ = version;
      return report.complete();
    }
  }

  int conclude(const trainer& trainer, bool complete) {
    const auto target = target_hashes(options_);
    const auto states = trainer.receivers();
    for (const auto& r : receivers_) {
      audit_line line;
      line.id = r->id();
      line.name = r->name();
      const auto hashes = tensor_hashes(r->shape(), [&](std::size_t i) { return r->tensor(i); });
      const auto state = r->state();
      const auto last = stream_.versions().back().version;
      if (const auto bad = first_difference(hashes, target)) {
        line.why_not = "tensor '" + r->shape()[*bad].name + "' differs";
      } else if (!state.ready || state.label != last) {
        line.why_not = "not ready at version " + std::to_string(last) + ": " +
                       std::string(to_string(state.reason));
      } else {
        line.pass = true;
      }
      for (const auto& s : states) {
        if (s.id != r->id()) continue;
        line.reseeds = s.reseeds;
        line.restarts = s.restarts;
        summary_.reseeds += s.reseeds;
      }
      summary_.receivers.push_back(std::move(line));
    }
    if (!options_.out.empty())
      for (const auto& r : receivers_)
        write_safetensors(out_file(options_, r->id()), r->shape(),
                          [&](std::size_t i) { return r->tensor(i); });
    for (const auto& f : faults_->left())
      std::fprintf(stderr, "lockstep: --inject %s never struck: that sync moved nothing\n",
                   to_string(f).c_str());
    output_.summary(summary_);
    return summary_.pass() && complete && faults_->left().empty() ? exit_ok : exit_check_failed;
  }

  const replay_options& options_;
  checkpoint base_;
  weight_stream stream_;
  std::shared_ptr<fault_plan> faults_;
  replay_output output_;
  std::optional<runtime> runtime_;
  std::vector<weight_buffer> copies_;
  std::vector<std::unique_ptr<receiver>> receivers_;
  std::uint64_t held_ = 0;
  replay_summary summary_;
};

}  // namespace

void add_replay_command(CLI::App& program, std::function<int()>& run) {
  auto* command = program.add_subcommand(
      "replay", "Play a trainer: sync every version of a stream to receivers in this process");
  const auto o = std::make_shared<replay_options>();
  command->add_option("--base", o->base, "Checkpoint that trainer and receivers start from")
      ->type_name("DIR")
      ->required();
  command
      ->add_option("--stream", o->stream,
                   "Full checkpoints, or a published stream, one directory a version")
      ->type_name("DIR")
      ->required();
  command->add_option("--receivers", o->receivers, "How many receivers, each with its own weights")
      ->check(CLI::Range(1u, receivers_max))
      ->capture_default_str();
  command
      ->add_option("--inject", o->inject,
                   "Make a receiver (from 0) fail at a version: stage-fail, apply-fail, crash, "
                   "corrupt-frame, no-reply or false-ok. May be repeated")
      ->type_name("KIND@VERSION:RECEIVER");
  command
      ->add_option("--out", o->out,
                   "Write each receiver's last weights as DIR/receiver-I/model.safetensors")
      ->type_name("DIR");
  command->add_flag("--json", o->json, "One JSON object a line");
  o->settings.add_to(*command);
  command->callback([o, &run] { run = [o] { return replay(*o).run(); }; });
}

}  // namespace lockstep
