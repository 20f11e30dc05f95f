#include "bridge/process/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pty.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bridge/process/open_files.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

// What the child needs; made before fork, because after it only async-signal-safe calls are
// allowed.
struct ChildPlan {
  std::string program;
  std::string directory;
  std::vector<char*> arguments;
  std::vector<char*> environment;
  int stdio[3] = {-1, -1, -1};
  bool terminal = false;
  int error_pipe = -1;
  struct rlimit open_files = {};
};

absl::Status StartError(int error, const std::string& command, const std::string& what) {
  const std::string text = absl::StrCat("cannot start '", command, "': ", what);
  if (error == ENOENT) return absl::NotFoundError(text);
  if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(text);
  return absl::FailedPreconditionError(text);
}

bool IsProgram(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && access(path.c_str(), X_OK) == 0;
}

absl::StatusOr<std::string> FindProgram(const SpawnSpec& spec) {
  const std::string& name = spec.command[0];
  if (absl::StrContains(name, '/')) return name;
  const auto path = spec.environment.find("PATH");
  const std::string folders = path == spec.environment.end() ? kDefaultPath : path->second;
  const std::vector<std::string> all = absl::StrSplit(folders, ':', absl::SkipEmpty());
  for (const std::string& folder : all) {
    std::string candidate = absl::StrCat(folder, "/", name);
    if (folder[0] != '/') {
      candidate = absl::StrCat(spec.working_directory, "/", candidate);
    }
    if (IsProgram(candidate)) return candidate;
  }
  return StartError(ENOENT, name, absl::StrCat("command not found in PATH (", folders, ")"));
}

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

absl::StatusOr<Pipe> MakePipe() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "cannot make a pipe");
  return Pipe{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// Both sides' ends; the child's are closed in the parent by going out of scope.
struct Stdio {
  SpawnedProcess parent;
  UniqueFd child[3];
};

absl::Status OpenTerminal(const SpawnSpec& spec, Stdio* stdio) {
  int master = -1;
  int slave = -1;
  if (openpty(&master, &slave, nullptr, nullptr, nullptr) != 0) {
    return absl::ErrnoToStatus(errno, "cannot open a terminal");
  }
  stdio->parent.terminal.Reset(master);
  stdio->child[0].Reset(slave);
  fcntl(master, F_SETFD, FD_CLOEXEC);
  fcntl(slave, F_SETFD, FD_CLOEXEC);
  if (spec.want_stdin) stdio->parent.std_in.Reset(fcntl(master, F_DUPFD_CLOEXEC, 3));
  if (spec.want_stdout) stdio->parent.std_out.Reset(fcntl(master, F_DUPFD_CLOEXEC, 3));
  for (int i = 1; i < 3; ++i) stdio->child[i].Reset(fcntl(slave, F_DUPFD_CLOEXEC, 3));
  if (spec.rows == 0 && spec.columns == 0) return absl::OkStatus();
  return SetWindowSize(master, spec.rows, spec.columns);
}

absl::Status OpenPipes(const SpawnSpec& spec, Stdio* stdio) {
  const bool wanted[3] = {spec.want_stdin, spec.want_stdout, spec.want_stderr};
  UniqueFd* ours[3] = {&stdio->parent.std_in, &stdio->parent.std_out, &stdio->parent.std_err};
  for (int i = 0; i < 3; ++i) {
    if (!wanted[i]) {
      stdio->child[i].Reset(open("/dev/null", O_RDWR | O_CLOEXEC));
      if (!stdio->child[i].valid()) return absl::ErrnoToStatus(errno, "cannot open /dev/null");
      continue;
    }
    ASSIGN_OR_RETURN(Pipe pipe, MakePipe());
    *ours[i] = std::move(i == 0 ? pipe.write : pipe.read);
    stdio->child[i] = std::move(i == 0 ? pipe.read : pipe.write);
  }
  return absl::OkStatus();
}

// In the child. Never returns.
[[noreturn]] void RunChild(const ChildPlan& plan) {
  const auto fail = [&plan]() {
    const int error = errno;
    [[maybe_unused]] const ssize_t ignored = write(plan.error_pipe, &error, sizeof(error));
    _exit(127);
  };
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (int number = 1; number < NSIG; ++number) signal(number, SIG_DFL);
  setrlimit(RLIMIT_NOFILE, &plan.open_files);
  setsid();
  if (plan.terminal && ioctl(plan.stdio[0], TIOCSCTTY, 0) != 0) fail();
  for (int i = 0; i < 3; ++i) {
    if (dup2(plan.stdio[i], i) < 0) fail();
  }
  if (chdir(plan.directory.c_str()) != 0) fail();
  execve(plan.program.c_str(), plan.arguments.data(), plan.environment.data());
  fail();
  _exit(127);
}

// Waits for the exec: its error number, 0 if it worked.
int ReadExecError(const UniqueFd& pipe) {
  int error = 0;
  ssize_t got;
  do {
    got = read(pipe.get(), &error, sizeof(error));
  } while (got < 0 && errno == EINTR);
  return got == sizeof(error) ? error : 0;
}

}  // namespace

absl::Status SetWindowSize(int terminal, uint32_t rows, uint32_t columns) {
  if (rows > USHRT_MAX || columns > USHRT_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat("a console of ", rows, " rows and ", columns, " columns is too large"));
  }
  struct winsize size = {};
  size.ws_row = static_cast<uint16_t>(rows);
  size.ws_col = static_cast<uint16_t>(columns);
  if (ioctl(terminal, TIOCSWINSZ, &size) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, "cannot set the console's size");
}

absl::StatusOr<SpawnedProcess> SpawnProcess(const SpawnSpec& spec) {
  if (spec.command.empty() || spec.command[0].empty()) {
    return absl::InvalidArgumentError("no command was given");
  }
  ChildPlan plan;
  ASSIGN_OR_RETURN(plan.program, FindProgram(spec));
  plan.directory = spec.working_directory.empty() ? "/" : spec.working_directory;
  plan.terminal = spec.terminal;
  plan.open_files = InheritedOpenFiles();
  Stdio stdio;
  RETURN_IF_ERROR(spec.terminal ? OpenTerminal(spec, &stdio) : OpenPipes(spec, &stdio));
  ASSIGN_OR_RETURN(Pipe errors, MakePipe());

  std::vector<std::string> arguments = spec.command;
  std::vector<std::string> environment;
  for (const auto& [name, value] : spec.environment) {
    environment.push_back(absl::StrCat(name, "=", value));
  }
  for (std::string& argument : arguments) plan.arguments.push_back(argument.data());
  for (std::string& entry : environment) plan.environment.push_back(entry.data());
  plan.arguments.push_back(nullptr);
  plan.environment.push_back(nullptr);
  for (int i = 0; i < 3; ++i) {
    // Out of the way of the numbers that dup2() is about to fill.
    if (stdio.child[i].get() < 3) {
      stdio.child[i].Reset(fcntl(stdio.child[i].get(), F_DUPFD_CLOEXEC, 3));
    }
    plan.stdio[i] = stdio.child[i].get();
  }
  plan.error_pipe = errors.write.get();

  const pid_t pid = fork();
  if (pid < 0) return absl::ErrnoToStatus(errno, "cannot fork");
  if (pid == 0) RunChild(plan);
  errors.write.Reset();
  if (const int error = ReadExecError(errors.read); error != 0) {
    waitpid(pid, nullptr, 0);
    return StartError(
        error, spec.command[0],
        absl::StrCat(error == ENOENT ? "command or working directory not found: " : "",
                     strerror(error), " (program ", plan.program, ", folder ", plan.directory,
                     ")"));
  }
  stdio.parent.pid = pid;
  stdio.parent.pidfd.Reset(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (stdio.parent.pidfd.valid()) return std::move(stdio.parent);
  const absl::Status failure = absl::ErrnoToStatus(errno, "cannot watch the new process");
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  return failure;
}

}  // namespace ferry::bridge
