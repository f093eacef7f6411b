#include <unistd.h>

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
#include "apps/output_directory.hpp"
#include "apps/plain_number.hpp"
#include "apps/progress_bar.hpp"
#include "apps/replay_output.hpp"
#include "protocol/deadlines.hpp"
#include "weights/checkpoint.hpp"
#include "weights/weight_stream.hpp"

namespace lockstep {

namespace {

struct replay_options {
  settings_options settings;
  std::string base;
  std::string stream;
  std::optional<std::string> out;
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

/// Says no before the work, not in the midst of it, to more copies than the machine could hold: the
/// receivers' own, the trainer's, its snapshot and the audit's.
void check_memory(std::uint64_t model_bytes, std::uint32_t receivers) {
  const auto pages = ::sysconf(_SC_PHYS_PAGES);
  const auto page_bytes = ::sysconf(_SC_PAGESIZE);
  if (pages <= 0 || page_bytes <= 0) return;  // not known; the allocator will say
  const auto memory = static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(page_bytes);
  const auto copies = std::uint64_t{receivers} + 3;
  if (model_bytes <= memory / copies) return;
  throw error(errc::bad_input, "--receivers " + std::to_string(receivers) + ": needs " +
                                   std::to_string(copies) + " copies of " +
                                   human_bytes(model_bytes) + ", but this machine has " +
                                   human_bytes(memory) + " of memory");
}

/// The last version's bytes, folded afresh from the files: nothing of the run goes into it.
std::vector<hash128> target_hashes(const replay_options& o) {
  const auto base = checkpoint::open(o.base);
  const auto stream = weight_stream::open(o.stream, base.shape());
  weight_buffer target(base.shape());
  target.copy_from(base);
  const auto& versions = stream.versions();
  std::size_t first = 0;  // what stands before the last full version does not count
  for (std::size_t i = 0; i < versions.size(); ++i)
    if (versions[i].what == weight_stream::kind::full) first = i;
  for (auto i = first; i < versions.size(); ++i) stream.load(i, target);
  return tensor_hashes(target.shape(), reader_of(target));
}

class replay {
 public:
  explicit replay(const replay_options& o)
      : options_(o),
        settings_(o.settings.load().build()),
        base_(checkpoint::open(o.base)),
        stream_(weight_stream::open(o.stream, base_.shape())),
        faults_(std::make_shared<fault_plan>(parse_faults(o, stream_))),
        output_(o.json) {
    if (settings_.sync.members_min > o.receivers)
      throw error(errc::bad_setting,
                  "sync.members_min is " + std::to_string(settings_.sync.members_min) +
                      ", more than there are receivers (" + std::to_string(o.receivers) + ")");
    check_memory(base_.shape().total_bytes(), o.receivers);
    if (o.out) out_.emplace(*o.out, o.receivers);
  }

  int run() {
    runtime_.emplace(settings_);
    progress_bar bar(stream_.versions().size());
    bar.show(0, "seeding");
    weight_buffer weights(base_.shape());
    weights.copy_from(base_);
    trainer trainer(*runtime_, base_.shape());
    start_receivers();
    trainer.seed(weights);
    wait_for_all(trainer);
    bar.clear();
    const auto started = std::chrono::steady_clock::now();
    output_.start("replaying " + std::to_string(stream_.versions().size()) + " versions of " +
                  std::to_string(base_.shape().count()) + " tensors (" +
                  human_bytes(base_.shape().total_bytes()) + ") to " +
                  std::to_string(options_.receivers) + " receivers");
    bool complete = true;
    for (std::size_t i = 0; i < stream_.versions().size(); ++i)
      complete = play(trainer, i, weights, bar) && complete;
    summary_.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    bar.show(stream_.versions().size(), "auditing");
    audit(trainer);
    write_out();
    bar.clear();
    return conclude(complete);
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

  void wait_for_all(const trainer& trainer) const {
    const auto bytes = base_.shape().total_bytes();
    const auto attach = std::chrono::milliseconds(settings_.sync.attach_timeout_ms) +
                        transfer_time(settings_, bytes);
    const auto patience = 2 * attach + full_timeout(settings_, 2 * bytes);
    if (trainer.wait_for_members(options_.receivers, patience)) return;
    for (const auto& r : trainer.receivers())
      if (!r.member)
        throw error(errc::unreachable, r.name +
                                           " did not attach: " + std::string(to_string(r.reason)) +
                                           (r.detail.empty() ? "" : ", " + r.detail));
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
      summary_.add(report);
      if (report.result == sync_result::aborted) {
        if (attempt < attempts_max) continue;
        return false;
      }
      held_ = version;
      return report.complete();
    }
  }

  void audit(const trainer& trainer) {
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
        line.catch_ups = s.catch_ups;
        line.restarts = s.restarts;
      }
      summary_.receivers.push_back(std::move(line));
    }
  }

  void write_out() const {
    if (!out_) return;
    for (const auto& r : receivers_)
      write_safetensors(out_->file_of(r->id()), r->shape(),
                        [&](std::size_t i) { return r->tensor(i); });
  }

  int conclude(bool complete) {
    for (const auto& f : faults_->left())
      std::fprintf(stderr, "lockstep: --inject %s never struck: there was no moment for it\n",
                   to_string(f).c_str());
    output_.summary(summary_);
    return summary_.pass() && complete && faults_->left().empty() ? exit_ok : exit_check_failed;
  }

  const replay_options& options_;
  settings settings_;
  checkpoint base_;
  weight_stream stream_;
  std::shared_ptr<fault_plan> faults_;
  replay_output output_;
  std::optional<output_directory> out_;
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
      ->check(plain_number(1, receivers_max))
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--inject", o->inject,
                   "Make a receiver (from 0) fail at a version: stage-fail, apply-fail, crash, "
                   "corrupt-frame, no-reply or false-ok. May be repeated")
      ->type_name("KIND@VERSION:RECEIVER")
      ->allow_extra_args(false);
  command
      ->add_option("--out", o->out,
                   "Write each receiver's last weights as DIR/receiver-I/model.safetensors")
      ->type_name("DIR");
  command->add_flag("--json", o->json, "One JSON object a line");
  o->settings.add_to(*command);
  command->callback([o, &run] { run = [o] { return replay(*o).run(); }; });
}

}  // namespace lockstep
