#include "actors/runtime.hpp"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <xxhash.h>

#include <chrono>
#include <random>
#include <thread>

#include "actors/runtime_parts.hpp"
#include "actors/states.hpp"

namespace lockstep {

namespace {

std::function<std::uint64_t()> system_entropy() {
  struct source {
    std::mutex mutex;
    std::random_device device;
  };
  auto shared = std::make_shared<source>();
  return [shared] {
    const std::lock_guard lock(shared->mutex);
    const auto high = std::uint64_t{shared->device()};
    return high << 32 | shared->device();
  };
}

std::shared_ptr<spdlog::logger> make_log(const log_settings& options) {
  constexpr spdlog::level::level_enum levels[] = {spdlog::level::trace, spdlog::level::debug,
                                                  spdlog::level::info,  spdlog::level::warn,
                                                  spdlog::level::err,   spdlog::level::off};
  spdlog::sink_ptr sink;
  try {
    if (options.file.empty()) {
      sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
    } else {
      sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(options.file);
    }
  } catch (const spdlog::spdlog_ex& e) {
    throw error(errc::unwritable, options.file + ": " + e.what());
  }
  auto log = std::make_shared<spdlog::logger>("lockstep", std::move(sink));
  log->set_level(levels[static_cast<std::size_t>(options.level)]);
  log->flush_on(spdlog::level::warn);
  return log;
}

}  // namespace

runtime::parts::parts(const settings& options, std::function<std::uint64_t()> entropy) {
  auto made = std::make_shared<actor_env>();
  made->options = options;
  made->cluster = XXH3_64bits(options.cluster.name.data(), options.cluster.name.size());
  made->entropy = std::move(entropy);
  made->log = make_log(options.log);
  env = std::move(made);

  const auto threads =
      options.runtime.threads != 0 ? options.runtime.threads : std::thread::hardware_concurrency();
  config.set("scheduler.max-threads", static_cast<std::size_t>(threads));
  config.add_message_types<caf::id_block::lockstep>();
  system = std::make_unique<caf::actor_system>(config);
  supervisor = system->spawn(supervisor_behavior, env);
}

runtime::parts::~parts() {
  caf::anon_send_exit(supervisor, caf::exit_reason::user_shutdown);
  supervisor = nullptr;
  system->await_all_actors_done();
}

std::uint64_t runtime::parts::next_run() {
  const std::lock_guard lock(mutex_);
  // Wall time orders the runs of different processes; the counter those within one millisecond.
  const auto now = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::system_clock::now().time_since_epoch());
  last_run_ = std::max(last_run_ + 1, static_cast<std::uint64_t>(now.count()));
  return last_run_;
}

bool runtime::parts::claim(receiver_id id) {
  const std::lock_guard lock(mutex_);
  return ids_.insert(id).second;
}

void runtime::parts::unclaim(receiver_id id) {
  const std::lock_guard lock(mutex_);
  ids_.erase(id);
}

runtime::runtime(const settings& options) : runtime(options, system_entropy()) {}

runtime::runtime(const settings& options, std::function<std::uint64_t()> entropy) {
  validate(options);
  parts_ = std::make_unique<parts>(options, std::move(entropy));
}

runtime::~runtime() = default;

const settings& runtime::options() const noexcept {
  return parts_->env->options;
}

}  // namespace lockstep
