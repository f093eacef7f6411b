// `lockstep receiver`: an engine-side process that keeps a checkpoint up to date.
#include <fnmatch.h>
#if __has_include(<malloc.h>)
#include <malloc.h>
#endif

#include <CLI/CLI.hpp>
#include <chrono>
#include <exception>
#include <filesystem>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>

#include "actors/receiver.hpp"
#include "apps/commands.hpp"
#include "apps/exit_codes.hpp"
#include "apps/plain_number.hpp"
#include "apps/row_shards_option.hpp"
#include "apps/standard_output.hpp"
#include "apps/stop_signal.hpp"
#include "weights/checkpoint.hpp"
#include "weights/file.hpp"
#include "weights/file_lock.hpp"
#include "weights/mapped_weights.hpp"
#include "weights/row_split.hpp"
#include "weights/unwritable.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

struct receiver_command_options {
  settings_options settings;
  std::optional<std::string> connect;
  receiver_id id = 0;
  std::string name;
  std::string checkpoint;
  std::vector<std::string> tensors;
  std::uint32_t row_shards = 1;
  std::optional<std::string> out;
  bool json = false;
  bool insecure = false;
};

/// Prints what the receiver becomes, as it becomes it. Thread-safe.
class state_printer {
 public:
  explicit state_printer(bool json) : json_(json) {}

  void print(const readiness& s) {
    const std::lock_guard lock(mutex_);
    if (last_ == s) return;
    last_ = s;
    if (json_) {
      const nlohmann::ordered_json line{{"kind", "state"},
                                        {"ready", s.ready},
                                        {"phase", to_string(s.phase)},
                                        {"version", to_string(s.version)},
                                        {"label", s.label},
                                        {"reason", to_string(s.reason)}};
      say(line.dump());
      return;
    }
    auto line =
        std::string(s.ready ? "ready" : "not ready") + ", " + std::string(to_string(s.phase));
    if (s.version)
      line += ", version " + std::to_string(s.label) + " (" + to_string(s.version) + ")";
    if (s.reason != errc::none) line += ": " + std::string(to_string(s.reason));
    say(line);
  }

  /// Throws what kept a line from being printed.
  void check() {
    const std::lock_guard lock(mutex_);
    if (broken_) std::rethrow_exception(broken_);
  }

 private:
  /// A hook must not throw for it: the weights are right all the same.
  void say(const std::string& line) {
    try {
      if (!broken_) print_out(line + '\n');
    } catch (const error&) {
      broken_ = std::current_exception();
    }
  }

  bool json_;
  std::mutex mutex_;
  std::optional<readiness> last_;
  std::exception_ptr broken_;
};

settings settings_of(const receiver_command_options& o) {
  auto s = o.settings.build(o.insecure);
  if (o.connect) s.transport.connect = *o.connect;
  if (s.transport.connect.empty())
    throw error(errc::bad_input, "--connect HOST:PORT is missing: where is the trainer?");
  s.transport.listen.clear();
  if (o.out && o.out->empty()) throw error(errc::bad_input, "--out is empty: which directory?");
  return s;
}

fs::path out_file(const fs::path& out) {
  return out / "model.safetensors";
}

/// Two processes that write to one file would each prove what the other changes: `out` is one's
/// until it ends, however it does. Throws where it would overwrite what is read at `checkpoint`.
file_lock lock_of(const fs::path& out, const fs::path& checkpoint) {
  const auto same = [&](const fs::path& other) {
    std::error_code ignored;
    return fs::equivalent(out_file(out), other, ignored);
  };
  bool overwrites = same(checkpoint);
  if (leads_to_directory(checkpoint))
    for (const auto& file : files_in(checkpoint)) overwrites = overwrites || same(file);
  if (overwrites)
    throw error(errc::bad_input, "--out " + out.string() + ": it would overwrite the checkpoint");
  make_directories(out);
  // As long as it may take an earlier process to end.
  return file_lock(out / ".lockstep.lock", std::chrono::seconds(2));
}

/// Which pieces the patterns name, by their own names or their tensors'; all where there are none.
shard_mask chosen(const layout& whole, const row_split& split,
                  const std::vector<std::string>& patterns) {
  const auto& shape = split.shape();
  shard_mask taken(shape.count(), patterns.empty());
  for (const auto& pattern : patterns) {
    const auto names = [&](const std::string& name) {
      return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
    };
    bool any = false;
    for (std::size_t i = 0; i < shape.count(); ++i) {
      if (!names(shape[i].name) && !names(whole[split[i].tensor].name)) continue;
      taken[i] = any = true;
    }
    if (!any)
      throw error(errc::bad_input, "--tensors " + in_quotes(pattern) +
                                       ": the checkpoint has no tensor of such a name");
  }
  return taken;
}

/// What is kept, in memory or in a file: what is taken and nothing else. A tensor is in one piece
/// where all of its rows are taken.
layout kept_of(const layout& whole, const row_split& split, const shard_mask& taken) {
  std::vector<bool> lacks(whole.count(), false);
  for (std::size_t i = 0; i < taken.size(); ++i)
    if (!taken[i]) lacks[split[i].tensor] = true;
  std::vector<tensor_spec> specs;
  for (std::size_t i = 0; i < whole.count(); ++i)
    if (!lacks[i]) specs.push_back(whole[i]);
  for (std::size_t i = 0; i < taken.size(); ++i)
    if (taken[i] && lacks[split[i].tensor]) specs.push_back(split.shape()[i]);
  return layout(std::move(specs));
}

/// The memory of the pieces that are taken, in weights of the layout `kept`.
template <class Weights>
std::vector<std::span<std::byte>> lent(Weights& weights, const layout& kept, const layout& whole,
                                       const row_split& split, const shard_mask& taken) {
  std::vector<std::span<std::byte>> tensors(whole.count());
  for (std::size_t i = 0; i < whole.count(); ++i)
    if (const auto at = kept.find(whole[i].name)) tensors[i] = weights.tensor(*at);
  auto out = split.memory(tensors);
  for (std::size_t i = 0; i < taken.size(); ++i)
    if (const auto at = kept.find(split.shape()[i].name); at && taken[i])
      out[i] = weights.tensor(*at);
  return out;
}

/// glibc keeps what was freed once larger buffers have come and gone, a third of what a sync takes:
/// beside an engine that memory is somebody else's.
void give_back_what_is_freed() {
#ifdef M_MMAP_THRESHOLD
  constexpr int from_bytes = 128 * 1024;  // glibc's own, which is let grow unless it is set
  (void)::mallopt(M_MMAP_THRESHOLD, from_bytes);
#endif
}

int run_receiver(const receiver_command_options& o) {
  give_back_what_is_freed();
  stop_signal stop;
  const auto options = settings_of(o);
  const auto base = checkpoint::open(o.checkpoint);
  const auto& whole = base.shape();
  const row_split split(whole, o.row_shards);
  const auto mine = o.out ? std::optional(lock_of(*o.out, o.checkpoint)) : std::nullopt;
  std::optional<weight_buffer> memory;
  std::optional<mapped_weights> file;
  receiver_options ro;
  ro.id = o.id;
  ro.name = o.name;
  const auto taken = chosen(whole, split, o.tensors);
  for (std::size_t i = 0; i < taken.size() && !o.tensors.empty(); ++i)
    if (taken[i]) ro.tensors.push_back(split.shape()[i].name);
  const auto kept = kept_of(whole, split, taken);
  const tensor_reader initial = [&, pieces = split.reader(reader_of(base))](std::size_t index) {
    const auto tensor = whole.find(kept[index].name);
    return tensor ? base.tensor(*tensor) : pieces(*split.shape().find(kept[index].name));
  };
  if (o.out) {
    file.emplace(out_file(*o.out), kept, initial);
    ro.memory = lent(*file, kept, whole, split, taken);
  } else {
    memory.emplace(kept).copy_from(kept, initial);
    ro.memory = lent(*memory, kept, whole, split, taken);
  }
  state_printer printer(o.json);
  ro.hooks.readiness_changed = [&printer](const readiness& s) { printer.print(s); };
  runtime on(options);
  if (file && file->reused()) on.log(log_level::info, "taken up: " + out_file(*o.out).string());
  if (file && !file->replaced().empty())
    on.log(log_level::warn, "made anew, because " + file->replaced());
  receiver engine(on, split.shape(), std::move(ro));
  bool in_place = true;
  while (!stop.wait_for(std::chrono::milliseconds(200)) && in_place) {
    printer.check();
    engine.check_refused();
    in_place = !file || file->in_place();
  }
  engine.detach();
  printer.print(engine.state());
  printer.check();
  if (!in_place)
    throw try_again_error(errc::unwritable,
                          out_file(*o.out).string() +
                              ": is gone or another file, so that nobody sees what is written; "
                              "start again once that is settled");
  return exit_ok;
}

}  // namespace

void add_receiver_command(CLI::App& program, std::function<int()>& run) {
  auto* command = program.add_subcommand(
      "receiver", "Keep a checkpoint up to date with a trainer in another process");
  const auto o = std::make_shared<receiver_command_options>();
  command
      ->add_option("--connect", o->connect,
                   "Where the trainer is; several addresses, parted by commas, are all kept to")
      ->type_name("HOST:PORT");
  command->add_option("--id", o->id, "Number of this receiver, one of its own in the fleet")
      ->check(plain_number(0, 0xffff'ffff))
      ->type_name("N")
      ->required();
  command->add_option("--name", o->name, "Name in reports; receiver-N if none is given")
      ->type_name("NAME");
  command
      ->add_option("--checkpoint", o->checkpoint,
                   "Which tensors there are, and the bytes to begin with")
      ->type_name("DIR")
      ->required();
  command
      ->add_option(
          "--tensors", o->tensors,
          "Take only the tensors of the checkpoint whose names match, or pieces like w@3/8 "
          "with --row-shards; may be repeated. The checkpoint still is of the whole model")
      ->type_name("GLOB")
      ->allow_extra_args(false);
  add_row_shards_option(*command, o->row_shards);
  command
      ->add_option("--out", o->out,
                   "Keep the weights in DIR/model.safetensors, in place, instead of in memory; a "
                   "file of these tensors that is there is taken up again")
      ->type_name("DIR");
  command->add_flag("--json", o->json, "One JSON object a line");
  command->add_flag("--insecure", o->insecure,
                    "Leave this machine with neither certificates nor a shared key");
  o->settings.add_to(*command);
  command->callback([o, &run] { run = [o] { return run_receiver(*o); }; });
}

}  // namespace lockstep
