#include "actors/runtime.hpp"

#include <spdlog/spdlog.h>
#include <sys/prctl.h>

#include <caf/io/middleman.hpp>
#include <chrono>
#include <random>
#include <thread>

#include "actors/log.hpp"
#include "actors/runtime_parts.hpp"
#include "actors/states.hpp"
#include "actors/thread_room.hpp"
#include "kernels/dispatch.hpp"
#include "weights/workers.hpp"

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

/// Whoever crashes leaves its weights to nobody, and is traced by nobody but root.
void keep_memory_private() {
  if (::prctl(PR_SET_DUMPABLE, 0) != 0)
    throw error(errc::bad_setting,
                "runtime.core_dumps is false, which this system does not allow: " +
                    std::generic_category().message(errno));
}

/// From now on the kernels run as that.
void choose_kernels(simd_choice choice) {
  if (choice == simd_choice::automatic) return;
  const auto which = static_cast<kernels::implementation>(static_cast<unsigned>(choice) - 1);
  if (!kernels::set_implementation(which))
    throw setting_error("runtime.simd is \"" + std::string(kernels::to_string(which)) +
                        "\", which this machine does not have");
}

/// Dials rank 0 as another rank. What it captures is not called back once the gateway is closed.
rank_dialer dialer_of(const std::shared_ptr<const actor_env>& env, gateway* ways,
                      node_address coordinator, caf::actor_system* system) {
  auto g = ways->own_greeting(node_role::trainer);
  g.id = env->options.transport.rank;
  g.name = "rank " + std::to_string(g.id);  // for people: it proves nothing
  return [=](const rank_actor& me) {
    // A weak hold: a rank that has ended is not kept for an answer that nobody needs.
    const auto weak = caf::actor_cast<caf::actor_addr>(me);
    ways->dial(coordinator, g, node_role::trainer, [=](link_channels channels, failure why) {
      const auto rank = caf::actor_cast<rank_actor>(weak);
      if (!rank) return;
      rank_dialed out{{}, std::move(why)};
      if (channels.control)
        out.link = caf::actor_cast<coordinator_link_actor>(
            system->middleman().spawn_broker(coordinator_link_behavior, env, std::move(channels),
                                             caf::actor_cast<caf::actor>(rank)));
      caf::anon_send(rank, std::move(out));
    });
  };
}

}  // namespace

runtime::parts::parts(const settings& options, std::function<std::uint64_t()> entropy) {
  if (!options.runtime.core_dumps) keep_memory_private();
  auto made = std::make_shared<actor_env>();
  made->options = options;
  made->cluster = cluster_id(options.cluster.name);
  made->entropy = std::move(entropy);
  made->log = make_log(options.log);
  if (!options.drill.kill_at.empty())
    made->drill = std::make_shared<failpoint>(options.drill.kill_at);
  env = std::move(made);

  const auto threads =
      options.runtime.threads != 0 ? options.runtime.threads : std::thread::hardware_concurrency();
  config.set("scheduler.max-threads", static_cast<std::size_t>(threads));
  // One queue whose workers sleep until there is work. Those of CAF's default poll: each wakes
  // some 500 times in 25 ms after every job, and 100 times a second for ever.
  config.set("scheduler.policy", caf::atom("sharing"));
  config.add_message_types<caf::id_block::lockstep>();
  const auto& t = options.transport;
  if (!t.connect.empty()) trainers = parse_addresses("transport.connect", t.connect);
  if (t.rank >= t.ranks)
    throw setting_error("transport.rank is " + std::to_string(t.rank) +
                        ", must be below transport.ranks, which is " + std::to_string(t.ranks));
  if (t.ranks > 1 && t.listen.empty() && t.rank > 0)
    throw setting_error("transport.listen is empty: receivers would not find rank " +
                        std::to_string(t.rank));
  if (t.rank > 0 && trainers.size() != 1)
    throw setting_error("transport.connect must be the address of rank 0 at every other rank");
  if (!t.relay_address.empty()) {
    if (t.relay_listen.empty())
      throw setting_error(
          "transport.relay_address is where transport.relay_listen is found, which is empty");
    if (parse_address("transport.relay_address", t.relay_address).port == 0)
      throw setting_error("transport.relay_address is \"" + t.relay_address +
                          "\", must have a port");
  }
  if (!t.relay_listen.empty()) {
    parse_address("transport.relay_listen", t.relay_listen);
    if (!t.listen.empty() || t.connect.empty())
      throw setting_error(
          "transport.relay_listen is for receivers whose trainer is in another process: it needs "
          "transport.connect, and no transport.listen");
  }
  // Who dials a trainer is none, or a rank whose runs another numbers.
  if (t.connect.empty() && !options.trainer.run_file.empty())
    counter_.emplace(options.trainer.run_file);
  const bool linked = !t.listen.empty() || !t.connect.empty();
  if (linked) {
    config.load<caf::io::middleman>();
    ways = std::make_unique<gateway>(env);
    for (const auto& trainer : trainers) ways->check_host(trainer.host);
  }
  // CAF's workers and those that read weights, and what comes besides: clock, links, their bytes,
  // and who waits for the system on behalf of an actor.
  constexpr std::size_t others = 12;
  require_threads(2 * static_cast<std::size_t>(threads) + others);
  // Of the whole process: only once nothing of it is refused.
  choose_kernels(options.runtime.simd);
  env->log->debug("kernels run as {}", kernels::to_string(kernels::active_implementation()));
  set_workers(threads);
  system = std::make_unique<caf::actor_system>(config);
  // A rank that does not lead stands in its supervisor's place for whoever is linked to it.
  if (t.rank > 0)
    supervisor = caf::actor_cast<supervisor_actor>(system->spawn(
        rank_behavior, env, dialer_of(env, ways.get(), trainers.front(), system.get())));
  else
    supervisor = system->spawn(supervisor_behavior, env);
  if (t.listen.empty()) return;
  try {
    listen(parse_address("transport.listen", t.listen));
  } catch (...) {
    end();
    throw;
  }
}

runtime::parts::~parts() {
  end();
}

void runtime::parts::listen(const node_address& at) {
  auto g = ways->own_greeting(node_role::trainer);
  g.id = env->options.transport.rank;  // receivers wait for rank 0, and for no other
  ways->listen(at, std::move(g), [this](link_channels link) {
    auto& middleman = system->middleman();
    const auto role = link.control->peer().role;
    if (role == node_role::receiver)
      middleman.spawn_broker(receiver_link_behavior, env, std::move(link), supervisor);
    else if (role == node_role::trainer)
      middleman.spawn_broker(rank_link_behavior, env, std::move(link), supervisor);
    else
      middleman.spawn_broker(observer_link_behavior, env, std::move(link), supervisor);
  });
}

/// Those who find this process have buckets from this receiver.
void runtime::parts::listen_for_receivers(const engine& bytes) {
  auto g = ways->own_greeting(node_role::receiver);
  g.id = bytes.id();
  g.name = bytes.name();
  auto place = std::make_shared<relay_place>();
  const auto at = parse_address("transport.relay_listen", env->options.transport.relay_listen);
  ways->listen(at, std::move(g), [this, place](link_channels link) {
    system->middleman().spawn_broker(child_link_behavior, env, std::move(link), place->get());
  });
  relays_ = std::move(place);
}

node_address runtime::parts::relays_found_at() const {
  const auto& t = env->options.transport;
  if (!t.relay_address.empty()) return parse_address("transport.relay_address", t.relay_address);
  auto out = parse_address("transport.relay_listen", t.relay_listen);
  out.port = ways->port();
  // Nobody can dial "any": they are told the address that the trainer sees.
  if (out.host == "0.0.0.0" || out.host == "::") out.host.clear();
  return out;
}

void runtime::parts::end() {
  // First whatever could still start an actor.
  if (ways) ways->close();
  caf::anon_send_exit(supervisor, caf::exit_reason::user_shutdown);
  for (const auto& [id, agent] : agents_)
    caf::anon_send_exit(agent, caf::exit_reason::user_shutdown);
  system->await_all_actors_done();
  agents_.clear();
  supervisor = nullptr;
}

void runtime::parts::add(const std::shared_ptr<engine>& bytes) {
  if (env->options.transport.ranks > 1 && !env->options.transport.listen.empty())
    throw error(errc::bad_input,
                "receivers of a trainer with several ranks run in other processes");
  if (trainers.empty()) {
    caf::anon_send(supervisor, add_engine{bytes});
    return;
  }
  auto me = ways->own_greeting(node_role::receiver);
  me.name = bytes->name();
  ways->check_own(me);
  const std::lock_guard lock(mutex_);
  std::shared_ptr<relay_place> place;
  node_address found_at;
  // One receiver of a process passes on: the first, under whose name the process is found.
  if (!relays_ && !env->options.transport.relay_listen.empty()) {
    listen_for_receivers(*bytes);
    place = relays_;
    found_at = relays_found_at();
  }
  agents_[bytes->id()] = system->spawn(agent_behavior, env, bytes, ways.get(), trainers,
                                       std::move(place), std::move(found_at));
}

void runtime::parts::remove(receiver_id id, std::shared_ptr<std::promise<void>> done) {
  const std::lock_guard lock(mutex_);
  const auto agent = agents_.find(id);
  if (agent == agents_.end()) {
    caf::anon_send(supervisor, remove_engine{id, std::move(done)});
    return;
  }
  caf::anon_send(agent->second, remove_engine{id, std::move(done)});
  agents_.erase(agent);
}

std::uint64_t runtime::parts::next_run() {
  const std::lock_guard lock(mutex_);
  // Wall time orders the runs of different processes; the counter those within one millisecond.
  const auto now = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::system_clock::now().time_since_epoch());
  const auto later = std::max(last_run_ + 1, static_cast<std::uint64_t>(now.count()));
  // If its trainer's side dies the supervisor goes on under the next number, so often at most.
  const auto restarts = std::uint64_t{env->options.supervision.restart_max};
  last_run_ = counter_ ? counter_->take(later, 1 + restarts) : later;
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

std::uint16_t runtime::port() const noexcept {
  const auto& inside = *parts_;
  return inside.ways ? inside.ways->port() : 0;
}

void runtime::log(log_level level, const std::string& line) const {
  logging_to(parts_->env->log)(level, line);
}

}  // namespace lockstep
