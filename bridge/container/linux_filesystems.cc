#include "bridge/container/linux_filesystems.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bridge/container/mount_table.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

// The freezer's deadline is what counts; who waits here only waits for the thread.
constexpr milliseconds kUntilDone = std::chrono::hours(24);

Task<absl::Status> OnItsThread(std::string what, std::function<absl::Status()> work) {
  const Executor executor = co_await asio::this_coro::executor;
  CO_ASSIGN_OR_RETURN(const std::unique_ptr<BlockingWorker> worker,
                      BlockingWorker::Start(executor));
  co_return co_await worker->Run(kUntilDone, what.c_str(), std::move(work));
}

std::string TextOf(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// In order.
std::vector<int> ProcessesIn(const std::string& proc) {
  std::vector<int> pids;
  std::error_code error;
  std::filesystem::directory_iterator it(proc, error);
  for (; !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    int pid = 0;
    if (absl::SimpleAtoi(it->path().filename().string(), &pid)) pids.push_back(pid);
  }
  std::sort(pids.begin(), pids.end());
  return pids;
}

// Our own first. A process that ends meanwhile has none.
std::vector<MountNamespace> AllNamespaces(const std::string& proc) {
  std::error_code gone;
  std::set<std::string> seen = {
      std::filesystem::read_symlink(proc + "/self/ns/mnt", gone).string()};
  std::vector<MountNamespace> all = {{TextOf(proc + "/self/mountinfo"), "", ""}};
  for (const int pid : ProcessesIn(proc)) {
    const std::string folder = absl::StrCat(proc, "/", pid);
    const std::string id = std::filesystem::read_symlink(folder + "/ns/mnt", gone).string();
    if (gone || !seen.insert(id).second) continue;
    all.push_back(
        {TextOf(folder + "/mountinfo"), folder + "/root", absl::StrCat(" of process ", pid)});
  }
  return all;
}

bool IsMount(const struct statx& found, const DiskFilesystem& it, uint64_t mount) {
  if ((found.stx_mask & STATX_MNT_ID) != 0) return found.stx_mnt_id == mount;
  return absl::StrCat(found.stx_dev_major, ":", found.stx_dev_minor) == it.device;
}

// Something in the filesystem itself, and not in what may be mounted over it, nor a device that
// does something when it is opened.
absl::StatusOr<UniqueFd> OpenIn(const DiskFilesystem& it, const DiskFilesystem::Place& place) {
  const UniqueFd found(open(place.path.c_str(), O_PATH | O_CLOEXEC | O_NOFOLLOW));
  if (!found.valid()) return absl::ErrnoToStatus(errno, "cannot open it");
  struct statx what = {};
  if (statx(found.get(), "", AT_EMPTY_PATH, STATX_TYPE | STATX_MNT_ID, &what) != 0) {
    return absl::ErrnoToStatus(errno, "cannot look at it");
  }
  const bool plain = S_ISDIR(what.stx_mode) || S_ISREG(what.stx_mode);
  if (!plain || !IsMount(what, it, place.mount)) {
    return absl::NotFoundError("others are mounted over it");
  }
  UniqueFd opened(
      open(absl::StrCat("/proc/self/fd/", found.get()).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!opened.valid()) return absl::ErrnoToStatus(errno, "cannot open it");
  return opened;
}

absl::StatusOr<UniqueFd> OpenAnywhere(const DiskFilesystem& it) {
  absl::Status why = absl::NotFoundError("it is mounted nowhere");
  for (const DiskFilesystem::Place& place : it.places) {
    absl::StatusOr<UniqueFd> opened = OpenIn(it, place);
    if (opened.ok()) return opened;
    why = opened.status();
  }
  return why;
}

absl::Status FreezeResult(int error) {
  if (error == 0) return absl::OkStatus();
  if (error == EBUSY) return absl::FailedPreconditionError("somebody has frozen it already");
  if (error == EOPNOTSUPP || error == ENOTTY) {
    return absl::UnimplementedError("this kind of filesystem cannot be frozen");
  }
  return absl::ErrnoToStatus(error, "the kernel refuses");
}

absl::Status ThawResult(int error) {
  if (error == 0) return absl::OkStatus();
  if (error == EINVAL) return absl::FailedPreconditionError("somebody else has thawed it");
  // Whatever it is, it is frozen still, and no precondition of the caller's.
  return absl::InternalError(absl::ErrnoToStatus(error, "the kernel refuses").message());
}

}  // namespace

int FreezeIoctl(int fd, unsigned long request) { return ioctl(fd, request, 0) == 0 ? 0 : errno; }

std::vector<DiskFilesystem> FilesystemsIn(const std::vector<MountNamespace>& namespaces,
                                          const std::string& filesystems) {
  std::vector<DiskFilesystem> all;
  for (const MountNamespace& space : namespaces) {
    for (DiskMount& mount : WritableDiskMounts(space.mountinfo, filesystems)) {
      auto it = std::find_if(all.begin(), all.end(), [&mount](const DiskFilesystem& known) {
        return known.device == mount.device;
      });
      if (it == all.end()) {
        DiskFilesystem found;
        found.device = mount.device;
        found.name = mount.point + space.owner;
        it = all.insert(all.end(), std::move(found));
      }
      it->places.push_back({space.root + mount.point, mount.id});
    }
  }
  return all;
}

Task<absl::StatusOr<std::vector<DiskFilesystem>>> LinuxFilesystems::Writable() {
  auto all = std::make_shared<std::vector<DiskFilesystem>>();
  std::function<absl::Status()> look = [all, proc = options_.proc]() -> absl::Status {
    const std::vector<MountNamespace> namespaces = AllNamespaces(proc);
    const std::string filesystems = TextOf(proc + "/filesystems");
    if (namespaces[0].mountinfo.empty() || filesystems.empty()) {
      return absl::InternalError(absl::StrCat("cannot read what is mounted in ", proc));
    }
    *all = FilesystemsIn(namespaces, filesystems);
    return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(co_await OnItsThread("the mounts", std::move(look)));
  co_return *all;
}

Task<absl::Status> LinuxFilesystems::Freeze(DiskFilesystem it) {
  if (frozen_.contains(it.device)) co_return absl::FailedPreconditionError("it is frozen already");
  const Executor executor = co_await asio::this_coro::executor;
  const auto frozen = std::make_shared<Frozen>();
  CO_ASSIGN_OR_RETURN(frozen->worker, BlockingWorker::Start(executor));
  std::function<absl::Status()> work = [fd = frozen->fd, it,
                                        control = options_.ioctl]() -> absl::Status {
    ASSIGN_OR_RETURN(*fd, OpenAnywhere(it));
    const absl::Status status = FreezeResult(control(fd->get(), FIFREEZE));
    if (!status.ok()) fd->Reset();
    return status;
  };
  ++freezing_;
  const absl::Status status =
      co_await frozen->worker->Run(kUntilDone, it.name.c_str(), std::move(work));
  --freezing_;
  if (status.ok()) frozen_[it.device] = frozen;
  co_return status;
}

Task<absl::Status> LinuxFilesystems::Thaw(DiskFilesystem it) {
  const auto found = frozen_.find(it.device);
  if (found == frozen_.end()) co_return absl::FailedPreconditionError("it is not frozen");
  const std::shared_ptr<Frozen> frozen = found->second;
  // Closing it may be what unmounts it, which takes its time as well.
  std::function<absl::Status()> work = [fd = frozen->fd, control = options_.ioctl] {
    const absl::Status status = ThawResult(control(fd->get(), FITHAW));
    if (status.ok() || absl::IsFailedPrecondition(status)) fd->Reset();
    return status;
  };
  const absl::Status status =
      co_await frozen->worker->Run(kUntilDone, it.name.c_str(), std::move(work));
  if (status.ok() || absl::IsFailedPrecondition(status)) frozen_.erase(it.device);
  co_return status;
}

}  // namespace ferry::bridge
