#include "bridge/guest/guest_process.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

constexpr milliseconds kDialLimit{10'000};

// What stands for the status of a process that is not this process's child.
constexpr uint32_t kStatusLost = 255;

// How the zombie ended, without reaping it; nullopt while it runs.
std::optional<GuestExit> PeekExit(pid_t pid) {
  siginfo_t info = {};
  if (waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) != 0) {
    return GuestExit{kStatusLost, std::nullopt};
  }
  if (info.si_pid != pid) return std::nullopt;
  const auto status = static_cast<uint32_t>(info.si_status);
  if (info.si_code == CLD_EXITED) return GuestExit{status, std::nullopt};
  return GuestExit{128 + status, status};
}

bool HasEnded(int pidfd) {
  struct pollfd ended = {pidfd, POLLIN, 0};
  return poll(&ended, 1, 0) > 0;
}

SpawnSpec ToSpec(const ProcessParameters& parameters, const StdioRelaySettings& stdio) {
  SpawnSpec spec;
  spec.command = parameters.command_args;
  if (spec.command.empty()) {
    spec.command = absl::StrSplit(parameters.command_line, ' ', absl::SkipEmpty());
  }
  spec.environment = parameters.environment;
  spec.environment.emplace("PATH", kDefaultPath);
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

Task<absl::StatusOr<std::unique_ptr<Connection>>> DialPort(GuestTransport* transport,
                                                           uint32_t port) {
  if (port == 0) co_return std::unique_ptr<Connection>();
  Task<absl::StatusOr<std::unique_ptr<Connection>>> dial = transport->Dial(port);
  co_return co_await WithDeadline(kDialLimit, "the host's stdio port", std::move(dial));
}

}  // namespace

Task<absl::StatusOr<DialledStdio>> DialStdio(GuestTransport& transport, StdioRelaySettings stdio) {
  DialledStdio dialled;
  if (stdio.resumable) co_return dialled;
  CO_ASSIGN_OR_RETURN(dialled.std_in, co_await DialPort(&transport, stdio.std_in));
  CO_ASSIGN_OR_RETURN(dialled.std_out, co_await DialPort(&transport, stdio.std_out));
  CO_ASSIGN_OR_RETURN(dialled.std_err, co_await DialPort(&transport, stdio.std_err));
  co_return dialled;
}

Task<absl::StatusOr<std::shared_ptr<GuestProcess>>> GuestProcess::Start(
    Executor executor, GuestTransport& transport, ProcessParameters parameters,
    StdioRelaySettings stdio) {
  const SpawnSpec spec = ToSpec(parameters, stdio);
  CO_ASSIGN_OR_RETURN(DialledStdio dialled, co_await DialStdio(transport, stdio));
  CO_ASSIGN_OR_RETURN(SpawnedProcess spawned, SpawnProcess(spec));
  std::shared_ptr<GuestProcess> process = Adopt(executor, std::move(spawned), Kind::kVm);
  process->ConnectStdio(transport, stdio, std::move(dialled));
  co_return process;
}

std::shared_ptr<GuestProcess> GuestProcess::Adopt(Executor executor, SpawnedProcess spawned,
                                                  Kind kind) {
  auto process = std::make_shared<GuestProcess>(executor, std::move(spawned), kind);
  process->scope_.Spawn(process->WatchExit(process));
  return process;
}

GuestProcess::GuestProcess(Executor executor, SpawnedProcess spawned, Kind kind)
    : executor_(executor),
      kind_(kind),
      pid_(spawned.pid),
      id_(static_cast<uint32_t>(spawned.pid)),
      pidfd_(executor, spawned.pidfd.Release()),
      terminal_(std::move(spawned.terminal)),
      std_in_(std::move(spawned.std_in)),
      std_out_(std::move(spawned.std_out)),
      std_err_(std::move(spawned.std_err)),
      exited_(executor),
      scope_(executor) {}

GuestProcess::~GuestProcess() {
  for (const auto& stream : streams_) stream->Abort();
}

void GuestProcess::ConnectStdio(GuestTransport& transport, const StdioRelaySettings& stdio,
                                DialledStdio dialled) {
  UniqueFd std_in = std::move(std_in_);
  if (std_in.valid() && stdio.std_in != 0) {
    streams_.push_back(stdio.resumable
                           ? StartResumableInput(executor_, transport, stdio.std_in,
                                                 std::move(std_in), has_terminal())
                           : StartPlainInput(executor_, dialled.std_in, std::move(std_in)));
  }
  const auto output = [&](UniqueFd fd, uint32_t port, std::shared_ptr<Connection> connection) {
    if (!fd.valid()) return;
    if (port == 0) {
      streams_.push_back(StartDiscard(executor_, std::move(fd)));
    } else if (stdio.resumable) {
      streams_.push_back(StartResumableOutput(executor_, transport, port, std::move(fd)));
    } else {
      streams_.push_back(StartPlainOutput(executor_, std::move(connection), std::move(fd)));
    }
  };
  output(std::move(std_out_), stdio.std_out, dialled.std_out);
  output(std::move(std_err_), stdio.std_err, dialled.std_err);
  if (!exit_.has_value()) return;
  for (const auto& stream : streams_) stream->ProcessExited();
}

Task<void> GuestProcess::WatchExit([[maybe_unused]] std::shared_ptr<GuestProcess> self) {
  while (!exit_.has_value()) {
    boost::system::error_code error;
    co_await pidfd_.async_wait(asio::posix::stream_descriptor::wait_read,
                               asio::redirect_error(asio::use_awaitable, error));
    exit_ = PeekExit(pid_);
    if (error) break;
  }
  if (kind_ == Kind::kContainer && exit_.has_value()) Collect();
  for (const auto& stream : streams_) stream->ProcessExited();
  exited_.Set();
}

void GuestProcess::Collect() {
  if (std::exchange(reaped_, true)) return;
  waitpid(pid_, nullptr, WNOHANG);
  // The host may take its time to acknowledge the exit.
  boost::system::error_code ignored;
  pidfd_.close(ignored);
}

absl::Status GuestProcess::Signal(uint32_t signal) {
  if (exit_.has_value() || reaped_ || HasEnded(pidfd_.native_handle())) {
    return absl::NotFoundError(absl::StrCat("process ", id_, " has exited"));
  }
  if (signal >= static_cast<uint32_t>(NSIG)) {
    return absl::InvalidArgumentError(absl::StrCat("there is no signal ", signal));
  }
  const int number = signal == 0 ? SIGKILL : static_cast<int>(signal);
  const pid_t target = number == SIGKILL && kind_ == Kind::kVm ? -pid_ : pid_;
  if (kill(target, number) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot signal process ", id_));
  }
  if (number == SIGTERM || number == SIGKILL) ending_signal_ = number;
  return absl::OkStatus();
}

absl::Status GuestProcess::Resize(uint32_t rows, uint32_t columns) {
  if (!terminal_.valid()) {
    return absl::FailedPreconditionError(absl::StrCat("process ", id_, " has no terminal"));
  }
  return SetWindowSize(terminal_.get(), rows, columns);
}

absl::Status GuestProcess::Acknowledge() {
  if (!exit_.has_value()) {
    return absl::FailedPreconditionError(absl::StrCat("process ", id_, " has not exited"));
  }
  Collect();
  acknowledged_ = true;
  for (const auto& stream : streams_) stream->Abort();
  streams_.clear();
  return absl::OkStatus();
}

void GuestProcess::Abandon() {
  for (const auto& stream : streams_) stream->Abort();
  streams_.clear();
  scope_.Cancel();
  if (reaped_) return;
  if (!exit_.has_value()) kill(kind_ == Kind::kVm ? -pid_ : pid_, SIGKILL);
  // Not waited for, because nothing ends while a disk holds it. From here on it is an orphan.
  Collect();
}

}  // namespace ferry::bridge
