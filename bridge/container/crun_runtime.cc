#include "bridge/container/crun_runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "bridge/container/cgroup_freeze.h"
#include "bridge/container/console_socket.h"
#include "bridge/container/oci_spec.h"
#include "bridge/protocol/run_failure.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

constexpr std::streamoff kMaxLog = 4096;

// The end of crun's log, as far as it is of use.
std::string ReadLog(const std::string& path) {
  std::ifstream file(path, std::ios::ate);
  if (!file) return "";
  file.seekg(std::max<std::streamoff>(0, std::streamoff(file.tellg()) - kMaxLog));
  std::string log(kMaxLog, '\0');
  file.read(log.data(), static_cast<std::streamsize>(log.size()));
  log.resize(static_cast<size_t>(file.gcount()));
  return LastLogLine(log);
}

absl::Status WriteInput(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::trunc);
  file << text;
  file.close();
  if (file) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cannot write ", path));
}

SpawnSpec ToSpec(std::vector<std::string> command, bool pipes) {
  SpawnSpec spec;
  spec.command = std::move(command);
  spec.environment["PATH"] = kDefaultPath;
  spec.want_stdin = spec.want_stdout = spec.want_stderr = pipes;
  return spec;
}

// What the runtime has written down, nullopt if it has not come that far.
std::optional<pid_t> ReadPid(const std::string& pid_file) {
  std::ifstream file(pid_file);
  pid_t pid = -1;
  if (file >> pid && pid > 1) return pid;
  return std::nullopt;
}

// Kills a process that crun has made unless it was taken: nobody would know of it. Nobody collects
// it while its maker is inside the ChildGate, so that the pid is its own.
class KillUnlessTaken {
 public:
  explicit KillUnlessTaken(std::string pid_file) : pid_file_(std::move(pid_file)) {}
  KillUnlessTaken(const KillUnlessTaken&) = delete;
  KillUnlessTaken& operator=(const KillUnlessTaken&) = delete;
  ~KillUnlessTaken() {
    if (taken_) return;
    if (const std::optional<pid_t> pid = ReadPid(pid_file_)) kill(*pid, SIGKILL);
  }
  void Take() { taken_ = true; }

 private:
  const std::string pid_file_;
  bool taken_ = false;
};

// Makes `process` the one whose pid the runtime has written down.
absl::Status Adopt(const std::string& pid_file, SpawnedProcess* process) {
  const std::optional<pid_t> pid = ReadPid(pid_file);
  if (!pid.has_value()) return absl::InternalError("crun has told no pid");
  process->pid = *pid;
  // It may have ended; then it is a zombie that nobody else collects.
  process->pidfd.Reset(static_cast<int>(syscall(SYS_pidfd_open, *pid, 0)));
  if (process->pidfd.valid()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cannot watch process ", *pid, ": ", strerror(errno)));
}

absl::Status TakeTerminal(ConsoleSocket* socket, const ContainerStdio& stdio,
                          SpawnedProcess* process) {
  ASSIGN_OR_RETURN(process->terminal, socket->TakeMaster());
  process->std_in.Reset(fcntl(process->terminal.get(), F_DUPFD_CLOEXEC, 3));
  process->std_out.Reset(fcntl(process->terminal.get(), F_DUPFD_CLOEXEC, 3));
  if (stdio.rows == 0 && stdio.columns == 0) return absl::OkStatus();
  return SetWindowSize(process->terminal.get(), stdio.rows, stdio.columns);
}

}  // namespace

// The files of one run, removed when it is over, however it ended.
class CrunRuntime::Run {
 public:
  explicit Run(CrunRuntime& runtime) : files_(NewStem(runtime)) {}
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;
  ~Run() {
    for (const std::string* path : {&files_.log, &files_.pid, &files_.input}) {
      unlink(path->c_str());
    }
  }
  const CrunFiles& files() const { return files_; }

 private:
  static std::string NewStem(CrunRuntime& runtime) {
    std::error_code ignored;
    std::filesystem::create_directories(runtime.options_.work_folder, ignored);
    return absl::StrCat(runtime.options_.work_folder, "/", ++runtime.runs_);
  }

  const CrunFiles files_;
};

CrunRuntime::CrunRuntime(Executor executor, Options options, HelperPids& pids)
    : executor_(executor),
      options_(std::move(options)),
      commands_(options_.program, options_.state_folder),
      pids_(pids) {}

Task<absl::Status> CrunRuntime::Finish(const Run* run, SpawnedProcess spawned) {
  Helper helper(executor_, spawned, pids_);
  const absl::Status status = co_await helper.Finish("crun", options_.limit);
  if (status.ok()) co_return status;
  const std::string said = ReadLog(run->files().log);
  if (said.empty()) co_return status;
  const absl::Status told(status.code(), absl::StrCat(std::string(kWordsOfCrun), said));
  const std::optional<RunFailure> failure = RunFailureInWordsOfCrun(said);
  co_return failure.has_value() ? WithRunFailure(told, *failure) : told;
}

Task<absl::Status> CrunRuntime::RunVerb(const Run* run, std::vector<std::string> command) {
  const SpawnSpec spec = ToSpec(std::move(command), /*pipes=*/false);
  CO_ASSIGN_OR_RETURN(SpawnedProcess crun, Helper::Spawn(spec));
  co_return co_await Finish(run, std::move(crun));
}

Task<absl::StatusOr<SpawnedProcess>> CrunRuntime::Launch(const Run* run,
                                                         std::vector<std::string> command,
                                                         ContainerStdio stdio) {
  std::optional<ConsoleSocket> console;
  if (stdio.terminal) {
    CO_ASSIGN_OR_RETURN(ConsoleSocket socket, ConsoleSocket::Listen(run->files().console));
    console.emplace(std::move(socket));
  }
  const SpawnSpec spec = ToSpec(std::move(command), /*pipes=*/!stdio.terminal);
  CO_ASSIGN_OR_RETURN(SpawnedProcess crun, Helper::Spawn(spec));
  KillUnlessTaken made(run->files().pid);
  // The other ends of the pipes are the container's from here on.
  SpawnedProcess launched;
  launched.std_in = std::move(crun.std_in);
  launched.std_out = std::move(crun.std_out);
  launched.std_err = std::move(crun.std_err);
  CO_RETURN_IF_ERROR(co_await Finish(run, std::move(crun)));
  CO_RETURN_IF_ERROR(Adopt(run->files().pid, &launched));
  if (console.has_value()) CO_RETURN_IF_ERROR(TakeTerminal(&*console, stdio, &launched));
  made.Take();
  co_return launched;
}

Task<absl::StatusOr<SpawnedProcess>> CrunRuntime::Create(std::string id, std::string bundle,
                                                         ContainerStdio stdio) {
  const Run run(*this);
  std::vector<std::string> command = commands_.Create(run.files(), id, bundle, stdio.terminal);
  co_return co_await Launch(&run, std::move(command), stdio);
}

Task<absl::StatusOr<SpawnedProcess>> CrunRuntime::Exec(std::string id, std::string process,
                                                       ContainerStdio stdio) {
  const Run run(*this);
  CO_RETURN_IF_ERROR(WriteInput(run.files().input, process));
  std::vector<std::string> command = commands_.Exec(run.files(), id, stdio.terminal);
  co_return co_await Launch(&run, std::move(command), stdio);
}

Task<absl::Status> CrunRuntime::Simple(std::string id, const char* verb) {
  const Run run(*this);
  std::vector<std::string> command = commands_.Simple(run.files(), verb, id);
  co_return co_await RunVerb(&run, std::move(command));
}

Task<absl::Status> CrunRuntime::Start(std::string id) { return Simple(std::move(id), "start"); }
Task<absl::Status> CrunRuntime::Resume(std::string id) { return Simple(std::move(id), "resume"); }

Task<absl::Status> CrunRuntime::Pause(std::string id) {
  CO_RETURN_IF_ERROR(co_await Simple(id, "pause"));
  std::string cgroup = options_.cgroup_root + ContainerCgroup(id);
  co_return co_await AwaitFrozen(std::move(cgroup), options_.freeze_limit);
}

Task<absl::Status> CrunRuntime::Update(std::string id, std::string resources) {
  const Run run(*this);
  CO_RETURN_IF_ERROR(WriteInput(run.files().input, resources));
  std::vector<std::string> command = commands_.Update(run.files(), id);
  co_return co_await RunVerb(&run, std::move(command));
}

Task<absl::Status> CrunRuntime::Delete(std::string id) {
  const Run run(*this);
  std::vector<std::string> command = commands_.Delete(run.files(), id);
  co_return co_await RunVerb(&run, std::move(command));
}

}  // namespace ferry::bridge
