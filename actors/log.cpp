#include "actors/log.hpp"

#include <fcntl.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <utility>

#include "messages/one_line.hpp"
#include "transport/log_throttle.hpp"
#include "weights/unwritable.hpp"

namespace lockstep {

namespace {

/// What a line says, on one line whatever the names and words are that it quotes.
class quoted_text : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& m, const std::tm&,
              spdlog::memory_buf_t& out) override {
    const auto text = one_line({m.payload.data(), m.payload.size()});
    out.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<spdlog::custom_flag_formatter> clone() const override {
    return std::make_unique<quoted_text>();
  }
};

spdlog::level::level_enum level_of(log_level level) {
  constexpr spdlog::level::level_enum levels[] = {spdlog::level::trace, spdlog::level::debug,
                                                  spdlog::level::info,  spdlog::level::warn,
                                                  spdlog::level::err,   spdlog::level::off};
  return levels[static_cast<std::size_t>(level)];
}

}  // namespace

std::shared_ptr<spdlog::logger> make_log(const log_settings& options) {
  spdlog::sink_ptr sink;
  try {
    if (options.file.empty()) {
      sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
    } else {
      sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(options.file);
    }
  } catch (const spdlog::spdlog_ex& e) {
    // It has the system's reason as text only: asked again, it may even be well by now.
    const int file = ::open(options.file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file < 0) refuse_write(options.file, "cannot be opened", errno);
    ::close(file);
    throw try_again_error(errc::unwritable, options.file + ": " + e.what());
  }
  auto log = std::make_shared<spdlog::logger>("lockstep", std::move(sink));
  auto lines = std::make_unique<spdlog::pattern_formatter>();
  lines->add_flag<quoted_text>('*').set_pattern("[%Y-%m-%d %H:%M:%S.%e] [%n] [%l] %*");
  log->set_formatter(std::move(lines));
  log->set_level(level_of(options.level));
  log->flush_on(spdlog::level::warn);
  if (!options.file.empty()) {
    const auto say =
        std::make_shared<log_throttle>([](lockstep::log_level, const std::string& line) {
          std::fprintf(stderr, "lockstep: %s\n", line.c_str());
        });
    log->set_error_handler([say, file = options.file](const std::string& why) {
      (*say)(log_level::error, "lost", file + ": lines of the log are lost: " + one_line(why));
    });
  }
  return log;
}

log_function logging_to(std::shared_ptr<spdlog::logger> log) {
  return [log = std::move(log)](log_level level, const std::string& line) {
    log->log(level_of(level), "{}", line);
  };
}

}  // namespace lockstep
