#include "bridge/container/crun_runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "bridge/container/console_socket.h"
#include "bridge/process/helper.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

constexpr size_t kMaxLog = 4096;

// The end of crun's log, as far as it is of use.
std::string ReadLog(const std::string& path) {
  std::ifstream file(path);
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

// Removes the files when a run is over, however it ended.
class FilesOfOneRun {
 public:
  explicit FilesOfOneRun(CrunFiles files) : files_(std::move(files)) {}
  FilesOfOneRun(const FilesOfOneRun&) = delete;
  FilesOfOneRun& operator=(const FilesOfOneRun&) = delete;
  ~FilesOfOneRun() {
    for (const std::string* path : {&files_.log, &files_.pid, &files_.input}) {
      unlink(path->c_str());
    }
  }

 private:
  CrunFiles files_;
};

SpawnSpec ToSpec(std::vector<std::string> command, bool pipes) {
  SpawnSpec spec;
  spec.command = std::move(command);
  spec.environment["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  spec.want_stdin = spec.want_stdout = spec.want_stderr = pipes;
  return spec;
}

// Makes `process` the one whose pid the runtime has written down.
absl::Status Adopt(const std::string& pid_file, SpawnedProcess* process) {
  std::ifstream file(pid_file);
  pid_t pid = -1;
  if (!(file >> pid) || pid <= 1) return absl::InternalError("crun has told no pid");
  process->pid = pid;
  // It may have ended; then it is a zombie that nobody else collects.
  process->pidfd.Reset(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (process->pidfd.valid()) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot watch process ", pid));
}

absl::Status TakeTerminal(ConsoleSocket* socket, const ContainerStdio& stdio,
                          SpawnedProcess* process) {
  ASSIGN_OR_RETURN(process->terminal, socket->TakeMaster());
  process->std_in.Reset(fcntl(process->terminal.get(), F_DUPFD_CLOEXEC, 3));
  process->std_out.Reset(fcntl(process->terminal.get(), F_DUPFD_CLOEXEC, 3));
  if (stdio.rows == 0 && stdio.columns == 0) return absl::OkStatus();
  return SetWindowSize(process->terminal.get(), stdio.rows, stdio.columns);
}

Task<absl::Status> WaitForCrun(Helper* helper) {
  const int status = co_await helper->Wait();
  co_return FromWaitStatus("crun", status);
}

}  // namespace

CrunRuntime::CrunRuntime(Executor executor, Options options)
    : executor_(executor),
      options_(std::move(options)),
      commands_(options_.program, options_.state_folder) {}

CrunFiles CrunRuntime::NewFiles() {
  std::error_code ignored;
  std::filesystem::create_directories(options_.work_folder, ignored);
  return CrunFiles(absl::StrCat(options_.work_folder, "/", ++runs_));
}

Task<absl::Status> CrunRuntime::Run(CrunFiles files, SpawnedProcess spawned) {
  Helper helper(executor_, spawned);
  Task<absl::Status> wait = WaitForCrun(&helper);
  absl::Status status = co_await WithDeadline(options_.limit, "crun", std::move(wait));
  if (status.ok()) co_return status;
  const std::string said = ReadLog(files.log);
  if (said.empty()) co_return status;
  co_return absl::Status(status.code(), absl::StrCat("crun: ", said));
}

Task<absl::StatusOr<SpawnedProcess>> CrunRuntime::Launch(CrunFiles files,
                                                         std::vector<std::string> command,
                                                         ContainerStdio stdio) {
  std::optional<ConsoleSocket> console;
  if (stdio.terminal) {
    CO_ASSIGN_OR_RETURN(ConsoleSocket socket, ConsoleSocket::Listen(files.console));
    console.emplace(std::move(socket));
  }
  const SpawnSpec spec = ToSpec(std::move(command), /*pipes=*/!stdio.terminal);
  CO_ASSIGN_OR_RETURN(SpawnedProcess crun, SpawnProcess(spec));
  // The other ends of the pipes are the container's from here on.
  SpawnedProcess launched;
  launched.std_in = std::move(crun.std_in);
  launched.std_out = std::move(crun.std_out);
  launched.std_err = std::move(crun.std_err);
  CO_RETURN_IF_ERROR(co_await Run(files, std::move(crun)));
  CO_RETURN_IF_ERROR(Adopt(files.pid, &launched));
  if (console.has_value()) CO_RETURN_IF_ERROR(TakeTerminal(&*console, stdio, &launched));
  co_return launched;
}

Task<absl::StatusOr<SpawnedProcess>> CrunRuntime::Create(std::string id, std::string bundle,
                                                         ContainerStdio stdio) {
  const CrunFiles files = NewFiles();
  const FilesOfOneRun cleanup(files);
  std::vector<std::string> command = commands_.Create(files, id, bundle, stdio.terminal);
  co_return co_await Launch(files, std::move(command), stdio);
}

Task<absl::StatusOr<SpawnedProcess>> CrunRuntime::Exec(std::string id, std::string process,
                                                       ContainerStdio stdio) {
  const CrunFiles files = NewFiles();
  const FilesOfOneRun cleanup(files);
  CO_RETURN_IF_ERROR(WriteInput(files.input, process));
  std::vector<std::string> command = commands_.Exec(files, id, stdio.terminal);
  co_return co_await Launch(files, std::move(command), stdio);
}

Task<absl::Status> CrunRuntime::Simple(std::string id, const char* verb) {
  const CrunFiles files = NewFiles();
  const FilesOfOneRun cleanup(files);
  const SpawnSpec spec = ToSpec(commands_.Simple(files, verb, id), /*pipes=*/false);
  CO_ASSIGN_OR_RETURN(SpawnedProcess crun, SpawnProcess(spec));
  co_return co_await Run(files, std::move(crun));
}

Task<absl::Status> CrunRuntime::Start(std::string id) { return Simple(std::move(id), "start"); }
Task<absl::Status> CrunRuntime::Pause(std::string id) { return Simple(std::move(id), "pause"); }
Task<absl::Status> CrunRuntime::Resume(std::string id) { return Simple(std::move(id), "resume"); }

Task<absl::Status> CrunRuntime::Update(std::string id, std::string resources) {
  const CrunFiles files = NewFiles();
  const FilesOfOneRun cleanup(files);
  CO_RETURN_IF_ERROR(WriteInput(files.input, resources));
  const SpawnSpec spec = ToSpec(commands_.Update(files, id), /*pipes=*/false);
  CO_ASSIGN_OR_RETURN(SpawnedProcess crun, SpawnProcess(spec));
  co_return co_await Run(files, std::move(crun));
}

Task<absl::Status> CrunRuntime::Delete(std::string id) {
  const CrunFiles files = NewFiles();
  const FilesOfOneRun cleanup(files);
  const SpawnSpec spec = ToSpec(commands_.Delete(files, id), /*pipes=*/false);
  CO_ASSIGN_OR_RETURN(SpawnedProcess crun, SpawnProcess(spec));
  co_return co_await Run(files, std::move(crun));
}

}  // namespace ferry::bridge
