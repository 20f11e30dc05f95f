#include "bridge/process/helper.h"

#include <signal.h>
#include <sys/wait.h>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

Task<absl::Status> WaitFor(Helper* helper, const char* program) {
  const int status = co_await helper->Wait();
  co_return FromWaitStatus(program, status);
}

}  // namespace

Helper::Helper(Executor executor, SpawnedProcess& spawned)
    : pid_(spawned.pid), pidfd_(executor, spawned.pidfd.Release()) {}

Helper::~Helper() {
  if (collected_) return;
  // Its session is its own; after SIGKILL the wait is over within moments.
  kill(-pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

Task<int> Helper::Wait() {
  int status = 0;
  while (true) {
    boost::system::error_code error;
    co_await pidfd_.async_wait(asio::posix::stream_descriptor::wait_read,
                               asio::redirect_error(asio::use_awaitable, error));
    const pid_t ended = waitpid(pid_, &status, WNOHANG);
    if (ended == 0 && !error) continue;
    collected_ = ended != 0;
    co_return ended == pid_ ? status : -1;
  }
}

absl::Status FromWaitStatus(const char* program, int status) {
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  if (WIFSIGNALED(status)) {
    return absl::InternalError(absl::StrCat(program, " was ended by signal ", WTERMSIG(status)));
  }
  return absl::InternalError(absl::StrCat(program, " failed with status ", WEXITSTATUS(status)));
}

Task<absl::Status> RunHelper(SpawnSpec spec, milliseconds limit) {
  const Executor executor = co_await asio::this_coro::executor;
  const std::string program = spec.command.empty() ? "" : spec.command[0];
  CO_ASSIGN_OR_RETURN(SpawnedProcess spawned, SpawnProcess(spec));
  Helper helper(executor, spawned);
  Task<absl::Status> wait = WaitFor(&helper, program.c_str());
  co_return co_await WithDeadline(limit, program.c_str(), std::move(wait));
}

}  // namespace ferry::bridge
