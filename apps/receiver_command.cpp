// `lockstep receiver`: an engine-side process that keeps a checkpoint up to date.
#include <fnmatch.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>

#include "actors/receiver.hpp"
#include "apps/commands.hpp"
#include "apps/exit_codes.hpp"
#include "apps/plain_number.hpp"
#include "apps/standard_output.hpp"
#include "apps/stop_signal.hpp"
#include "weights/checkpoint.hpp"
#include "weights/file.hpp"
#include "weights/mapped_weights.hpp"

namespace lockstep {

namespace {

struct receiver_command_options {
  settings_options settings;
  std::optional<std::string> connect;
  receiver_id id = 0;
  std::string name;
  std::string checkpoint;
  std::vector<std::string> tensors;
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
    if (!s.ready) line += ": " + std::string(to_string(s.reason));
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
  auto s = o.settings.load().build();
  if (o.insecure) s.transport.insecure = true;
  if (o.connect) s.transport.connect = *o.connect;
  if (s.transport.connect.empty())
    throw error(errc::bad_input, "--connect HOST:PORT is missing: where is the trainer?");
  s.transport.listen.clear();
  if (o.out && o.out->empty()) throw error(errc::bad_input, "--out is empty: which directory?");
  return s;
}

/// Indices of the tensors that the patterns name, all where there are none; ascending.
std::vector<std::size_t> chosen(const layout& shape, const std::vector<std::string>& patterns) {
  std::vector<bool> taken(shape.count(), patterns.empty());
  for (const auto& pattern : patterns) {
    bool any = false;
    for (std::size_t i = 0; i < shape.count(); ++i) {
      if (fnmatch(pattern.c_str(), shape[i].name.c_str(), 0) != 0) continue;
      taken[i] = any = true;
    }
    if (!any)
      throw error(errc::bad_input, "--tensors " + in_quotes(pattern) +
                                       ": the checkpoint has no tensor of such a name");
  }
  std::vector<std::size_t> out;
  for (std::size_t i = 0; i < taken.size(); ++i)
    if (taken[i]) out.push_back(i);
  return out;
}

int run_receiver(const receiver_command_options& o) {
  stop_signal stop;
  const auto options = settings_of(o);
  const auto base = checkpoint::open(o.checkpoint);
  std::optional<weight_buffer> memory;
  std::optional<mapped_weights> file;
  receiver_options ro;
  ro.id = o.id;
  ro.name = o.name;
  // Kept, in memory or in the file, is what is taken and nothing else.
  const auto taken = chosen(base.shape(), o.tensors);
  std::vector<tensor_spec> specs;
  for (const auto i : taken) specs.push_back(base.shape()[i]);
  if (!o.tensors.empty())
    for (const auto& spec : specs) ro.tensors.push_back(spec.name);
  const layout kept(std::move(specs));
  const tensor_reader initial = [&](std::size_t index) { return base.tensor(taken[index]); };
  ro.memory.resize(base.shape().count());
  const auto lend = [&](auto& weights) {
    for (std::size_t i = 0; i < taken.size(); ++i) ro.memory[taken[i]] = weights.tensor(i);
  };
  if (o.out) {
    lend(file.emplace(std::filesystem::path(*o.out) / "model.safetensors", kept, initial));
  } else {
    memory.emplace(kept).copy_from(kept, initial);
    lend(*memory);
  }
  state_printer printer(o.json);
  ro.hooks.readiness_changed = [&printer](const readiness& s) { printer.print(s); };
  runtime on(options);
  receiver engine(on, base.shape(), std::move(ro));
  while (!stop.wait_for(std::chrono::milliseconds(200))) printer.check();
  engine.detach();
  printer.print(engine.state());
  printer.check();
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
      ->add_option("--tensors", o->tensors,
                   "Take only the tensors of the checkpoint whose names match; may be repeated. "
                   "The checkpoint still is of the whole model")
      ->type_name("GLOB")
      ->allow_extra_args(false);
  command
      ->add_option("--out", o->out,
                   "Keep the weights in DIR/model.safetensors, in place, instead of in memory; a "
                   "file that is there is taken up again")
      ->type_name("DIR");
  command->add_flag("--json", o->json, "One JSON object a line");
  command->add_flag("--insecure", o->insecure,
                    "Leave this machine with neither certificates nor a shared key");
  o->settings.add_to(*command);
  command->callback([o, &run] { run = [o] { return run_receiver(*o); }; });
}

}  // namespace lockstep
