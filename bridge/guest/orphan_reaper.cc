#include "bridge/guest/orphan_reaper.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/asio/signal_set.hpp>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace ferry::bridge {

std::vector<pid_t> ListChildren() {
  const pid_t self = getpid();
  std::ifstream list(absl::StrCat("/proc/", self, "/task/", self, "/children"));
  std::vector<pid_t> children;
  for (pid_t pid; list >> pid;) children.push_back(pid);
  return children;
}

void CollectOrphans(const IsOwned& owned) {
  // waitid(P_ALL) would return the first zombie over and over if that one is to be kept.
  for (const pid_t pid : ListChildren()) {
    if (!owned(static_cast<uint32_t>(pid))) waitpid(pid, nullptr, WNOHANG);
  }
}

Task<void> ReapOrphans(IsOwned owned) {
  const Executor executor = co_await asio::this_coro::executor;
  asio::signal_set child_signals(executor, SIGCHLD);
  while (true) {
    CollectOrphans(owned);
    boost::system::error_code error;
    co_await child_signals.async_wait(asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return;
  }
}

}  // namespace ferry::bridge
