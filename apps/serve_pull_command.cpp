#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "apps/acknowledger.hpp"
#include "apps/commands.hpp"
#include "apps/exit_codes.hpp"
#include "apps/new_host.hpp"
#include "apps/plain_number.hpp"
#include "apps/standard_output.hpp"
#include "apps/stop_signal.hpp"
#include "transport/http.hpp"
#include "transport/http_address.hpp"
#include "weights/checkpoint_index.hpp"
#include "weights/file.hpp"
#include "weights/host_record.hpp"
#include "weights/published.hpp"
#include "weights/pull.hpp"
#include "weights/pull_request.hpp"
#include "weights/pull_start.hpp"

namespace lockstep {

namespace fs = std::filesystem;

namespace {

using nlohmann::json;

struct serve_arguments {
  std::string host = "127.0.0.1";
  std::uint16_t port = 30'100;
  pull_directories permitted;
  std::string base;
  std::string engine;
  std::uint64_t lock_ms = 600'000;
  std::uint64_t engine_ms = 600'000;
  acknowledger_options say;
};

http_response answer(unsigned status, const json& body) {
  return {status, body.dump(-1, ' ', false, json::error_handler_t::replace)};
}

/// The route of engines that can pull, for one that cannot.
class pull_route {
 public:
  pull_route(const serve_arguments& a, stop_signal& stop)
      : arguments_(a),
        stopping_([&stop] { return stop.wait_for(std::chrono::milliseconds(0)); }),
        why_not_(why_torn(a.permitted.checkpoints)),
        version_(marker_of(a.permitted.checkpoints.front()).value_or(0)) {
    if (a.say.name.empty()) return;
    if (a.permitted.checkpoints.size() > 1)
      throw error(errc::bad_input, "--name: is of one host, which has one --checkpoint");
    to_.emplace(a.say);
  }

  std::optional<http_response> quick(const http_request& r) {
    const auto path = r.path.substr(0, r.path.find('?'));
    const bool gets = r.method == "GET" || r.method == "HEAD";
    if (path == "/healthz" && gets) return answer(200, {{"status", "ok"}});
    if (path == "/readyz" && gets) {
      const std::lock_guard lock(mutex_);
      const bool ready = !pulling_ && why_not_.empty();
      return answer(ready ? 200 : 503, {{"ready", ready},
                                        {"version", version_},
                                        {"message", pulling_ ? "a pull is under way" : why_not_}});
    }
    if (path == "/healthz" || path == "/readyz")
      return answer(405, {{"success", false}, {"message", "only GET and HEAD are answered"}});
    if (path != "/pull_weights")
      return answer(404, {{"success", false}, {"message", "no such route"}});
    if (r.method != "POST")
      return answer(405, {{"success", false}, {"message", "only POST is answered"}});
    return std::nullopt;
  }

  http_response slow(const http_request& r) {
    std::string why;
    std::uint64_t version = 0;
    bool pulled = false;
    std::optional<acknowledgement> become;
    pull_options asked;
    try {
      asked = parse(r.body);
    } catch (const std::exception& e) {  // says nothing of the checkpoint
      return answer(400, {{"success", false}, {"message", e.what()}});
    }
    if (to_) {
      asked.name = arguments_.say.name;
      asked.tell = [&](const acknowledgement& what) { become = what; };
    }
    begin();
    try {
      require_way_to_new_host(asked);
      version = pull(asked).version;
      pulled = true;
      if (!arguments_.engine.empty()) reload(asked.checkpoint, version);
    } catch (const std::exception& e) {
      why = e.what();
    }
    // An engine that has not loaded it does not hold it, whatever its files do.
    if (pulled && become && !why.empty())
      become = acknowledgement{become->version, become->challenge, errc::hook_failed, why, {}};
    const bool in_vain = !pulled && asks_in_vain(asked);
    end(version, in_vain ? std::nullopt : std::optional(why));
    const auto unsaid = become && !in_vain ? say(*become, asked.source) : std::string();
    if (!why.empty()) {
      print_error(why);
      return answer(400, {{"success", false}, {"message", why + unsaid}});
    }
    log_out(fmt::format("version {}\n", version));
    return answer(
        200, {{"success", true}, {"message", fmt::format("at version {}{}", version, unsaid)}});
  }

  /// Says once more what nobody has heard yet.
  void say_again() {
    const std::lock_guard lock(saying_);
    if (to_ && to_->owes()) (void)deliver();
  }

 private:
  /// Returns how an answer ends: with why nobody has heard it yet, which is tried again.
  std::string say(const acknowledgement& what, const fs::path& source) {
    const std::lock_guard lock(saying_);
    to_->owe(what, source);
    const auto problem = deliver();
    return problem.empty() ? problem : "; that could not be said yet: " + problem;
  }

  std::string deliver() {
    std::string problem;
    try {
      to_->deliver(stopping_);
    } catch (const std::exception& e) {
      problem = e.what();
    }
    if (problem != std::exchange(unsaid_, problem) && !problem.empty()) print_error(problem);
    return problem;
  }

  void begin() {
    const std::lock_guard lock(mutex_);
    pulling_ = true;
  }

  /// `why`: empty where it went well, nothing where readiness is what it was.
  void end(std::uint64_t version, const std::optional<std::string>& why) {
    const std::lock_guard lock(mutex_);
    pulling_ = false;
    if (!why) return;
    why_not_ = *why;
    if (why->empty()) version_ = version;
  }

  /// What keeps checkpoints from being whole before anything was pulled; empty if nothing does.
  static std::string why_torn(const std::vector<std::string>& checkpoints) {
    for (const auto& dir : checkpoints) try {
        if (const auto to = notes_of(dir).interrupted)
          return fmt::format("{}: was left by an interrupted change to version {}", dir, *to);
      } catch (const error& e) {
        if (e.code() != errc::torn) throw;
        return e.what();
      }
    return {};
  }

  /// Whether a pull that failed wanted what is not published, or less than is there: a request of
  /// old that is sent again, or one that came too early. Neither says anything of the weights.
  bool asks_in_vain(const pull_options& asked) const {
    try {
      const auto dir = published_dir(asked.source, *asked.target);
      if (!has_index(dir) && !stands(dir / single_file_name)) return true;
      const auto notes = notes_of(asked.checkpoint);
      if (notes.interrupted) return false;
      const auto held = find_start(asked.source, asked.checkpoint, notes.marker, notes.record,
                                   *asked.target, stopping_);
      return held.version && *held.version > *asked.target;
    } catch (const std::exception&) {
      return false;
    }
  }

  pull_options parse(const std::string& body) const {
    const auto asked = parse_pull_request(body, arguments_.permitted);
    pull_options options;
    options.source = asked.source;
    options.checkpoint = asked.checkpoint;
    if (!arguments_.base.empty()) options.base = arguments_.base;
    options.target = asked.target;
    options.lock_patience = std::chrono::milliseconds(arguments_.lock_ms);
    options.stopping = stopping_;
    return options;
  }

  void reload(const fs::path& checkpoint, std::uint64_t version) const {
    const json body{{"model_path", fs::absolute(checkpoint).string()},
                    {"weight_version", std::to_string(version)}};
    const auto reply =
        http_call(arguments_.engine, {"POST", "/update_weights_from_disk", body.dump()},
                  std::chrono::milliseconds(arguments_.engine_ms), stopping_);
    if (!says_loaded(reply.status, reply.body))
      throw error(errc::hook_failed,
                  fmt::format("the engine did not load version {}: status {}: {}", version,
                              reply.status, printable(reply.body)));
  }

  const serve_arguments& arguments_;
  std::function<bool()> stopping_;
  std::mutex mutex_;
  bool pulling_ = false;
  std::string why_not_;  // the last pull that said anything of the weights failed
  std::uint64_t version_;
  std::mutex saying_;
  std::optional<acknowledger> to_;
  std::string unsaid_;  // why the last try failed
};

int serve(const serve_arguments& a) {
  outlive_readers();
  stop_signal stop;
  if (!a.engine.empty()) parse_http_address(a.engine);  // not only after the first pull
  pull_route route(a, stop);
  const http_server server(
      a.host, a.port, [&](const http_request& r) { return route.quick(r); },
      [&](const http_request& r) { return route.slow(r); });
  print_out(fmt::format("serving on {}:{}\n", a.host, server.port()));
  while (!stop.wait_for(std::chrono::seconds(1))) route.say_again();
  return exit_ok;
}

}  // namespace

void add_serve_pull_command(CLI::App& program, std::function<int()>& run) {
  auto* command = program.add_subcommand(
      "serve-pull", "Answer POST /pull_weights beside an engine that has no such route");
  const auto a = std::make_shared<serve_arguments>();
  command->add_option("--host", a->host, "Address to listen on; whoever reaches it may ask")
      ->type_name("ADDRESS")
      ->capture_default_str();
  command->add_option("--port", a->port, "Port to listen on, 0 for a free one")
      ->check(plain_number(0, 65'535))
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--source", a->permitted.sources,
                   "Stream that may be pulled from. May be repeated")
      ->type_name("DIR")
      ->allow_extra_args(false)
      ->required();
  command
      ->add_option("--checkpoint", a->permitted.checkpoints,
                   "Checkpoint that may be brought up. May be repeated")
      ->type_name("DIR")
      ->allow_extra_args(false)
      ->required();
  command->add_option("--base", a->base, "Checkpoint that a host without one starts from")
      ->type_name("DIR");
  command
      ->add_option("--engine", a->engine,
                   "http://HOST:PORT of the engine, told to load the checkpoint after each pull")
      ->type_name("URL");
  command->add_option("--lock-ms", a->lock_ms, "How long to wait for others on this host")
      ->check(plain_number(0, 86'400'000))
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--engine-ms", a->engine_ms, "How long to wait for the engine")
      ->check(plain_number(1, 86'400'000))
      ->type_name("N")
      ->capture_default_str();
  a->say.add_to(*command);
  command->callback([a, &run] { run = [a] { return serve(*a); }; });
}

}  // namespace lockstep
