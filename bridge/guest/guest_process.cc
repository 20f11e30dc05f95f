#include "bridge/guest/guest_process.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

constexpr milliseconds kDialLimit{10'000};

// How the zombie ended, without reaping it; nullopt while it runs.
std::optional<GuestExit> PeekExit(pid_t pid) {
  siginfo_t info = {};
  if (waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
      info.si_pid != pid) {
    return std::nullopt;
  }
  const auto status = static_cast<uint32_t>(info.si_status);
  if (info.si_code == CLD_EXITED) return GuestExit{status, std::nullopt};
  return GuestExit{128 + status, status};
}

SpawnSpec ToSpec(const ProcessParameters& parameters, const StdioRelaySettings& stdio) {
  SpawnSpec spec;
  spec.command = parameters.command_args;
  if (spec.command.empty()) {
    spec.command = absl::StrSplit(parameters.command_line, ' ', absl::SkipEmpty());
  }
  spec.environment = parameters.environment;
  spec.environment.emplace("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
  if (parameters.emulate_console) spec.environment.emplace("TERM", "xterm");
  spec.working_directory =
      parameters.working_directory.empty() ? "/" : parameters.working_directory;
  spec.terminal = parameters.emulate_console;
  spec.rows = parameters.console_rows;
  spec.columns = parameters.console_columns;
  spec.want_stdin = stdio.std_in != 0;
  spec.want_stdout = stdio.std_out != 0;
  spec.want_stderr = stdio.std_err != 0 && !spec.terminal;
  return spec;
}

Task<absl::StatusOr<std::unique_ptr<Connection>>> DialStdio(GuestTransport* transport,
                                                            uint32_t port) {
  if (port == 0) co_return std::unique_ptr<Connection>();
  Task<absl::StatusOr<std::unique_ptr<Connection>>> dial = transport->Dial(port);
  co_return co_await WithDeadline(kDialLimit, "the host's stdio port", std::move(dial));
}

}  // namespace

struct GuestProcess::Dialled {
  std::shared_ptr<Connection> std_in;
  std::shared_ptr<Connection> std_out;
  std::shared_ptr<Connection> std_err;
};

Task<absl::StatusOr<std::shared_ptr<GuestProcess>>> GuestProcess::Start(
    Executor executor, GuestTransport& transport, ProcessParameters parameters,
    StdioRelaySettings stdio) {
  const SpawnSpec spec = ToSpec(parameters, stdio);
  Dialled dialled;
  if (!stdio.resumable) {
    CO_ASSIGN_OR_RETURN(dialled.std_in, co_await DialStdio(&transport, stdio.std_in));
    CO_ASSIGN_OR_RETURN(dialled.std_out, co_await DialStdio(&transport, stdio.std_out));
    CO_ASSIGN_OR_RETURN(dialled.std_err, co_await DialStdio(&transport, stdio.std_err));
  }
  CO_ASSIGN_OR_RETURN(SpawnedProcess spawned, SpawnProcess(spec));
  // The relays own the stdio ends, the process everything else.
  SpawnedProcess ends;
  ends.std_in = std::move(spawned.std_in);
  ends.std_out = std::move(spawned.std_out);
  ends.std_err = std::move(spawned.std_err);
  auto process = std::make_shared<GuestProcess>(executor, std::move(spawned));
  process->StartStdio(executor, transport, ends, stdio, spec.terminal, dialled);
  process->scope_.Spawn(process->WatchExit(process));
  co_return process;
}

GuestProcess::GuestProcess(Executor executor, SpawnedProcess spawned)
    : pid_(spawned.pid),
      pidfd_(executor, spawned.pidfd.Release()),
      terminal_(std::move(spawned.terminal)),
      exited_(executor),
      scope_(executor) {}

GuestProcess::~GuestProcess() {
  for (const auto& stream : streams_) stream->Abort();
}

void GuestProcess::StartStdio(Executor executor, GuestTransport& transport, SpawnedProcess& spawned,
                              const StdioRelaySettings& stdio, bool terminal, Dialled& dialled) {
  if (spawned.std_in.valid()) {
    streams_.push_back(stdio.resumable
                           ? StartResumableInput(executor, transport, stdio.std_in,
                                                 std::move(spawned.std_in), terminal)
                           : StartPlainInput(executor, dialled.std_in, std::move(spawned.std_in)));
  }
  const auto output = [&](UniqueFd fd, uint32_t port, std::shared_ptr<Connection> connection) {
    if (!fd.valid()) return;
    streams_.push_back(stdio.resumable
                           ? StartResumableOutput(executor, transport, port, std::move(fd))
                           : StartPlainOutput(executor, std::move(connection), std::move(fd)));
  };
  output(std::move(spawned.std_out), stdio.std_out, dialled.std_out);
  output(std::move(spawned.std_err), stdio.std_err, dialled.std_err);
}

Task<void> GuestProcess::WatchExit([[maybe_unused]] std::shared_ptr<GuestProcess> self) {
  while (!exit_.has_value()) {
    boost::system::error_code error;
    co_await pidfd_.async_wait(asio::posix::stream_descriptor::wait_read,
                               asio::redirect_error(asio::use_awaitable, error));
    exit_ = PeekExit(pid_);
    if (error) break;
  }
  for (const auto& stream : streams_) stream->ProcessExited();
  exited_.Set();
}

absl::Status GuestProcess::Signal(uint32_t signal) {
  if (exit_.has_value() || PeekExit(pid_).has_value()) {
    return absl::NotFoundError(absl::StrCat("process ", pid_, " has exited"));
  }
  if (signal >= static_cast<uint32_t>(NSIG)) {
    return absl::InvalidArgumentError(absl::StrCat("there is no signal ", signal));
  }
  const int number = signal == 0 ? SIGKILL : static_cast<int>(signal);
  const pid_t target = number == SIGKILL ? -pid_ : pid_;
  if (kill(target, number) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot signal process ", pid_));
}

absl::Status GuestProcess::Resize(uint32_t rows, uint32_t columns) {
  if (!terminal_.valid()) {
    return absl::FailedPreconditionError(absl::StrCat("process ", pid_, " has no terminal"));
  }
  return SetWindowSize(terminal_.get(), rows, columns);
}

absl::Status GuestProcess::Acknowledge() {
  if (!exit_.has_value()) {
    return absl::FailedPreconditionError(absl::StrCat("process ", pid_, " has not exited"));
  }
  if (!std::exchange(reaped_, true)) waitpid(pid_, nullptr, WNOHANG);
  for (const auto& stream : streams_) stream->Abort();
  streams_.clear();
  return absl::OkStatus();
}

void GuestProcess::Abandon() {
  for (const auto& stream : streams_) stream->Abort();
  streams_.clear();
  scope_.Cancel();
  if (reaped_) return;
  if (!exit_.has_value()) kill(-pid_, SIGKILL);
  // After SIGKILL this returns within moments.
  waitpid(pid_, nullptr, 0);
  reaped_ = true;
}

}  // namespace ferry::bridge
