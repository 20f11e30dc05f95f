#include "vmmanager/qemu/folder_servers.h"

#include <fcntl.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
extern "C" {
#include <sys/pidfd.h>
}

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "bridge/runtime/blocking_worker.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/json_text.h"
#include "vmmanager/qemu/qemu_command_line.h"
#include "vmmanager/qemu/unix_socket.h"

namespace ferry::vm {
namespace {

constexpr milliseconds kOpenLimit{10'000};
constexpr milliseconds kServerEndLimit{2'000};

absl::Status CannotShare(const std::string& path, const std::string& why) {
  return absl::FailedPreconditionError(absl::StrCat("cannot share the folder ", path, ": ", why));
}

// The folder itself, which nobody can put another one in the place of any more.
absl::StatusOr<UniqueFd> OpenShare(const std::string& path) {
  UniqueFd folder(::open(path.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!folder.valid()) {
    if (errno == ENOENT) return CannotShare(path, "there is no such folder on this host");
    if (errno == ENOTDIR || errno == ELOOP) return CannotShare(path, "it is no folder");
    return CannotShare(path, std::string(absl::ErrnoToStatus(errno, "opening it").message()));
  }
  std::array<char, 4097> target{};
  const ssize_t length = ::readlink(absl::StrCat("/proc/self/fd/", folder.get()).c_str(),
                                    target.data(), target.size());
  const std::string real(target.data(), length > 0 ? static_cast<size_t>(length) : 0);
  if (real == path) return folder;
  return CannotShare(path, absl::StrCat("it leads to ", real, " by now, which was not agreed on"));
}

// Its file system may hang.
Task<absl::StatusOr<UniqueFd>> OpenShareInTime(std::string path) {
  auto opened = std::make_shared<absl::StatusOr<UniqueFd>>(absl::UnknownError("not opened"));
  std::function<absl::Status()> open = [opened, path] {
    *opened = OpenShare(path);
    return absl::OkStatus();
  };
  BlockingWorker worker(co_await asio::this_coro::executor);
  const absl::Status in_time =
      co_await worker.Run(kOpenLimit, "the shared folder", std::move(open));
  if (!in_time.ok()) co_return CannotShare(path, std::string(in_time.message()));
  co_return std::move(*opened);
}

// Two ends of a connection, the first as a socket that has it in its queue. No name is left of it.
absl::StatusOr<std::pair<UniqueFd, UniqueFd>> MakeConnection(int folder, const std::string& name) {
  ASSIGN_OR_RETURN(UniqueFd listening, ListenUnix(folder, name));
  absl::StatusOr<UniqueFd> connected = ConnectUnix(folder, name);
  ::unlinkat(folder, name.c_str(), 0);
  RETURN_IF_ERROR(connected.status());
  // QEMU takes it as it is.
  ::fcntl(connected->get(), F_SETFL, 0);
  return std::make_pair(std::move(listening), *std::move(connected));
}

// virtiofsd confines a child of its own, which is the first of its process namespace: only this
// ends it for certain.
void KillChildrenOf(pid_t parent) {
  std::ifstream list(absl::StrCat("/proc/", parent, "/task/", parent, "/children"));
  for (pid_t child = 0; list >> child;) {
    const UniqueFd held(::pidfd_open(child, 0));
    if (held.valid()) ::pidfd_send_signal(held.get(), SIGKILL, nullptr, 0);
  }
}

// virtiofsd holds open each file that the guest knows of.
uint64_t MostOpenFiles() {
  constexpr rlim_t kPlenty = 1'000'000;
  struct rlimit limit {};
  // 0 leaves it as it is.
  return ::getrlimit(RLIMIT_NOFILE, &limit) == 0 ? std::min(limit.rlim_max, kPlenty) : 0;
}

}  // namespace

std::vector<std::string> FolderServerCommand(const std::string& binary, const std::string& place,
                                             uint64_t files) {
  // Its option lists take a backslash for an escape.
  const std::string source = absl::StrReplaceAll(place, {{"\\", "\\\\"}, {",", "\\,"}});
  return {binary, "-f", absl::StrCat("--fd=", kFolderServerFd),
          absl::StrCat("--rlimit-nofile=", files), "-o", absl::StrCat("source=", source), "-o",
          // What one side changes, the other sees within a second. Other file systems below the
          // folder keep numbers of their own; no device is made on the host.
          "sandbox=namespace,cache=auto,announce_submounts,modcaps=-mknod,log_level=warn"};
}

Task<absl::Status> FolderServers::Start(FolderServing how,
                                        std::map<std::string, schema::SharedFolder> shares) {
  for (auto& [number, share] : shares) {
    CO_RETURN_IF_ERROR(co_await StartOne(&how, number, std::move(share)));
  }
  co_return absl::OkStatus();
}

Task<absl::Status> FolderServers::StartOne(const FolderServing* how, std::string number,
                                           schema::SharedFolder share) {
  CO_ASSIGN_OR_RETURN(const uint32_t place, ParseSlot(number, kMaxShares, "a share's number"));
  CO_ASSIGN_OR_RETURN(const UniqueFd folder, co_await OpenShareInTime(share.path));
  const std::string name = absl::StrCat("share", place);
  const std::string seen_at = absl::StrCat(how->vm_folder, "/", name);
  if (::mkdir(seen_at.c_str(), 0700) != 0) {
    co_return absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", seen_at));
  }
  const std::string socket = name + ".socket";
  CO_ASSIGN_OR_RETURN(auto ends, MakeConnection(how->vm_folder_fd, socket));
  LaunchSpec spec;
  spec.argv = FolderServerCommand(how->binary, seen_at, MostOpenFiles());
  spec.stderr_path = how->log;
  spec.descriptors[kFolderServerFd] = ends.first.get();
  spec.cgroup = how->cgroup;
  spec.niceness = how->niceness;
  spec.view = FolderView{folder.get(), seen_at, share.read_only};
  CO_ASSIGN_OR_RETURN(std::unique_ptr<QemuProcess> process, QemuProcess::Launch(executor_, spec));
  ends_[kFirstShareFd + static_cast<int>(place)] = std::move(ends.second);
  Keep(std::move(share.path), std::move(process));
  co_return absl::OkStatus();
}

void FolderServers::Keep(std::string path, std::unique_ptr<QemuProcess> process) {
  auto server = std::make_shared<Server>(executor_, std::move(path), std::move(process));
  server->on_lost = on_lost_;
  servers_.push_back(server);
  ferry::Spawn(executor_, Watch(std::move(server)));
}

void FolderServers::AddDescriptors(std::map<int, int>* descriptors) const {
  for (const auto& [number, end] : ends_) (*descriptors)[number] = end.get();
}

boost::json::array FolderServers::Record() const {
  boost::json::array record;
  for (const auto& server : servers_) {
    record.push_back(boost::json::object{{"path", server->path},
                                         {"pid", server->process->pid()},
                                         {"start_time", server->process->start_time()}});
  }
  return record;
}

void FolderServers::Adopt(const boost::json::value* record) {
  const boost::json::array* entries = record == nullptr ? nullptr : record->if_array();
  if (entries == nullptr) return;
  for (const boost::json::value& entry : *entries) {
    const boost::json::object* fields = entry.if_object();
    if (fields == nullptr) continue;
    auto process = QemuProcess::Adopt(executor_, static_cast<pid_t>(WholeNumberAt(*fields, "pid")),
                                      WholeNumberAt(*fields, "start_time"));
    if (process.ok()) Keep(TextAt(*fields, "path"), *std::move(process));
  }
}

void FolderServers::End() {
  CloseDescriptors();
  for (auto& server : servers_) {
    server->on_lost = nullptr;
    ferry::Spawn(executor_, EndOne(std::move(server)));
  }
  servers_.clear();
}

void FolderServers::Release() {
  for (const auto& server : servers_) {
    server->on_lost = nullptr;
    server->process->Release();
  }
  servers_.clear();
}

Task<void> FolderServers::Watch(std::shared_ptr<Server> server) {
  const ProcessEnd end = co_await server->process->WaitEnd();
  server->ended.Set();
  if (!server->on_lost) co_return;
  server->on_lost(absl::StrCat("whoever serves the folder ", server->path, " ", end.ToString()));
}

Task<void> FolderServers::EndOne(std::shared_ptr<Server> server) {
  absl::Status ended =
      co_await WithDeadline(kServerEndLimit, "virtiofsd's end", server->ended.Wait());
  if (server->ended.is_set()) co_return;
  spdlog::warn("whoever serves the folder {} hangs, and is killed", server->path);
  KillChildrenOf(server->process->pid());
  server->process->Kill();
  ended =
      co_await WithDeadline(kServerEndLimit, "virtiofsd's end after SIGKILL", server->ended.Wait());
  if (!server->ended.is_set()) spdlog::error("the folder {} is served on: it hangs", server->path);
}

}  // namespace ferry::vm
