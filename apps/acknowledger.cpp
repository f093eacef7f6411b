#include "apps/acknowledger.hpp"

#include <CLI/CLI.hpp>
#include <utility>
#include <variant>

#include "actors/published_inbox.hpp"
#include "apps/conversation.hpp"
#include "apps/plain_number.hpp"
#include "transport/address.hpp"
#include "transport/security.hpp"

namespace lockstep {

namespace {

greeting greeting_of(const std::string& host) {
  greeting out;
  out.role = node_role::receiver;
  out.name = host;
  return out;
}

}  // namespace

void acknowledger_options::add_to(CLI::App& command) {
  auto* named = command
                    .add_option("--name", name,
                                "Say what becomes of each version, as the receiver of that name")
                    ->check([](const std::string& text) {
                      return is_host_name(text) ? std::string() : "is no name of a host";
                    })
                    ->type_name("NAME");
  auto* files = command.add_option("--acks", acks, "Where to say it; SOURCE/acks if not given")
                    ->type_name("DIR")
                    ->needs(named);
  auto* connection = command
                         .add_option("--connect", connect,
                                     "Say it to the publisher over a connection, not in a file "
                                     "(publish --listen, trainer --follower-listen)")
                         ->type_name("HOST:PORT")
                         ->needs(named)
                         ->excludes(files);
  command
      .add_option("--connect-ms", connect_ms,
                  "How long to try to be heard, before what goes on tries again at its next look")
      ->check(plain_number(1, 86'400'000))
      ->type_name("N")
      ->capture_default_str()
      ->needs(connection);
  command
      .add_flag("--insecure", insecure,
                "Connect off this machine with neither certificates nor a shared key")
      ->needs(connection);
  settings.add_to(command);
  for (const char* setting : {"--config", "--set"}) command.get_option(setting)->needs(connection);
}

acknowledger::acknowledger(const acknowledger_options& options) : options_(options) {
  if (options.connect.empty()) return;
  settings_ = options.settings.build(options.insecure);
  // What would fail every time is found before anything is pulled.
  const auto where = parse_address("--connect", options.connect);
  const security guard(security_of(settings_.transport));
  guard.check_host(where.host);
  guard.check_own(greeting_of(options.name));
}

void acknowledger::owe(const acknowledgement& what, const std::filesystem::path& stream) {
  owed_ = what;
  stream_ = stream;
}

void acknowledger::deliver(const std::function<bool()>& told_to_stop) {
  if (!owed_) return;
  if (options_.connect.empty())
    write();
  else
    tell(told_to_stop);
  owed_.reset();
}

void acknowledger::write() const {
  const std::filesystem::path given = options_.acks;
  write_acknowledgement(given.empty() ? acknowledgements_of(stream_) : given, options_.name,
                        *owed_);
}

void acknowledger::tell(const std::function<bool()>& told_to_stop) const {
  conversation with(settings_, options_.connect, greeting_of(options_.name),
                    std::chrono::milliseconds(options_.connect_ms), told_to_stop);
  with.say(reply_of(cluster_id(settings_.cluster.name), *owed_));
  const auto answer = with.hear();
  const auto* heard = std::get_if<welcome_msg>(&answer);
  if (heard == nullptr || heard->run != owed_->challenge)
    throw error(errc::bad_input, options_.connect + " answers an acknowledgement with " +
                                     std::string(name_of(answer)));
}

}  // namespace lockstep
