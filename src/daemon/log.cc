// SPDX-License-Identifier: BSD-3-Clause
#include "daemon/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/sinks/syslog_sink.h>
#include <spdlog/spdlog.h>
#include <syslog.h>

namespace pindax {

Status start_log(const DaemonOptions& options) {
  spdlog::sink_ptr sink;
  bool stamped = true;
  if (!options.log_file.empty()) {
    try {
      sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(options.log_file);
    } catch (const spdlog::spdlog_ex&) {
      return Status(Errc::kIo, "cannot write the log file " + options.log_file);
    }
  } else if (options.foreground) {
    sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  } else {
    sink = std::make_shared<spdlog::sinks::syslog_sink_mt>("pindaxd", LOG_PID, LOG_DAEMON, false);
    stamped = false;
  }
  auto logger = std::make_shared<spdlog::logger>("pindaxd", std::move(sink));
  logger->set_pattern(stamped ? "%Y-%m-%d %H:%M:%S.%e pindaxd[%P] %l: %v" : "%v");
  logger->set_level(spdlog::level::from_str(options.log_level));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
  return {};
}

}  // namespace pindax
