#include "bridge/process/helper.h"

#include <signal.h>
#include <sys/wait.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

absl::Status FromWaitStatus(const std::string& name, int status) {
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  if (WIFSIGNALED(status)) {
    return absl::InternalError(absl::StrCat(name, " was ended by signal ", WTERMSIG(status)));
  }
  return absl::InternalError(absl::StrCat(name, " failed with status ", WEXITSTATUS(status)));
}

}  // namespace

absl::StatusOr<SpawnedProcess> Helper::Spawn(const SpawnSpec& spec) {
  absl::StatusOr<SpawnedProcess> spawned = SpawnProcess(spec);
  if (!absl::IsNotFound(spawned.status())) return spawned;
  return absl::InternalError(spawned.status().message());
}

Helper::Helper(Executor executor, SpawnedProcess& spawned, HelperPids& pids)
    : pid_(spawned.pid), pids_(pids), pidfd_(executor, spawned.pidfd.Release()) {
  pids_.pids_.insert(pid_);
}

Helper::~Helper() {
  // Nobody else has its number as long as it is in the list.
  if (pids_.pids_.erase(pid_) == 0) return;
  // Its session is its own. It may be a while before it takes the signal (a disk that hangs).
  kill(-pid_, SIGKILL);
  waitpid(pid_, nullptr, WNOHANG);
}

Task<absl::StatusOr<int>> Helper::Wait() {
  int status = 0;
  while (true) {
    boost::system::error_code error;
    co_await pidfd_.async_wait(asio::posix::stream_descriptor::wait_read,
                               asio::redirect_error(asio::use_awaitable, error));
    const pid_t ended = waitpid(pid_, &status, WNOHANG);
    if (ended == 0 && !error) continue;
    if (ended != 0) pids_.pids_.erase(pid_);
    if (ended == pid_) co_return status;
    co_return absl::InternalError("its status was lost");
  }
}

Task<absl::Status> Helper::Finish(std::string name, milliseconds limit) {
  Task<absl::StatusOr<int>> wait = Wait();
  CO_ASSIGN_OR_RETURN(const int status,
                      co_await WithDeadline(limit, name.c_str(), std::move(wait)));
  co_return FromWaitStatus(name, status);
}

Task<absl::Status> RunHelper(SpawnSpec spec, milliseconds limit, HelperPids* pids) {
  const Executor executor = co_await asio::this_coro::executor;
  CO_ASSIGN_OR_RETURN(SpawnedProcess spawned, Helper::Spawn(spec));
  Helper helper(executor, spawned, *pids);
  co_return co_await helper.Finish(spec.command[0], limit);
}

}  // namespace ferry::bridge
