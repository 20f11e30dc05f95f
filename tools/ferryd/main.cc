// ferryd: keeps the utility VMs of one host and moves them to others.
#include <malloc.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <cstdio>

#include "bridge/runtime/async.h"
#include "tools/ferryd/config.h"
#include "tools/ferryd/daemon.h"
#include "tools/ferryd/signals.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::tools {
namespace {

// Documented in docs/ferryd.md.
constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

// A transfer buffers some MiB. Left to itself glibc takes their size for the usual one, and from
// then on keeps twice as much for the next time.
constexpr int kLargeBlock = 512 * 1024;

void GiveLargeBlocksBack() {
  ::mallopt(M_MMAP_THRESHOLD, kLargeBlock);
  ::mallopt(M_TRIM_THRESHOLD, 2 * kLargeBlock);
}

void Tell(const absl::Status& failure) {
  std::fprintf(stderr, "ferryd: %s\n", std::string(failure.message()).c_str());
  const auto info = rpc::GetErrorInfo(failure);
  if (!info || info->next_step().empty()) return;
  std::fprintf(stderr, "  Next:     %s\n", info->next_step().c_str());
}

Task<void> RunDaemon(FerrydConfig config, asio::io_context* io, int* exit_code) {
  Daemon daemon(io->get_executor(), std::move(config));
  asio::signal_set signals(io->get_executor(), SIGINT, SIGTERM);
  absl::Status started = co_await daemon.Start();
  if (started.ok()) {
    boost::system::error_code ignored;
    co_await signals.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    co_await daemon.Stop();
    spdlog::info("stopped");
  } else {
    Tell(started);
    *exit_code = kExitFailed;
    co_await daemon.Stop();
  }
  io->stop();
}

int Main(int argc, char** argv) {
  GiveLargeBlocksBack();
  int exit_code = 0;
  auto config = ParseCommandLine(argc, argv, &exit_code);
  if (!config.ok()) {
    if (absl::IsCancelled(config.status())) return exit_code;
    Tell(config.status());
    return kExitUsage;
  }
  ::umask(0077);
  IgnoreTellingSignals();
  auto logger = spdlog::stderr_logger_mt("ferryd");
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
  logger->set_level(spdlog::level::from_str(config->log_level));
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(logger);

  asio::io_context io(1);
  Spawn(io.get_executor(), RunDaemon(*std::move(config), &io, &exit_code));
  io.run();
  return exit_code;
}

}  // namespace
}  // namespace ferry::tools

int main(int argc, char** argv) { return ferry::tools::Main(argc, argv); }
