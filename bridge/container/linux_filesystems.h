#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bridge/container/filesystems.h"
#include "bridge/runtime/blocking_worker.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::bridge {

// FIFREEZE or FITHAW, by the kernel. 0, or its errno.
int FreezeIoctl(int fd, unsigned long request);

// Those of the kernel, in the mount namespaces of all processes. Each is worked on by a thread of
// its own, so that a disk that hangs holds up nobody else.
class LinuxFilesystems : public Filesystems {
 public:
  struct Options {
    std::string proc = "/proc";
    std::function<int(int fd, unsigned long request)> ioctl = FreezeIoctl;
  };

  explicit LinuxFilesystems(Options options) : options_(std::move(options)) {}

  Task<absl::StatusOr<std::vector<DiskFilesystem>>> Writable() override;
  Task<absl::Status> Freeze(DiskFilesystem it) override;
  Task<absl::Status> Thaw(DiskFilesystem it) override;

  // Whether any is held open, which none can unmount meanwhile.
  bool holds() const { return freezing_ > 0 || !frozen_.empty(); }

 private:
  // What is open can be thawed wherever it was mounted, and whoever unmounts it; and the thread is
  // there already, however few the guest has left by then.
  struct Frozen {
    std::shared_ptr<UniqueFd> fd = std::make_shared<UniqueFd>();
    std::unique_ptr<BlockingWorker> worker;
  };

  const Options options_;
  std::map<std::string, std::shared_ptr<Frozen>> frozen_;  // by device
  size_t freezing_ = 0;
};

// One mount namespace: the text of its mountinfo, where its root is, and what to call it.
struct MountNamespace {
  std::string mountinfo;
  std::string root;   // a path in our own namespace; empty: this is our own
  std::string owner;  // behind the mount points, for people
};

// Each filesystem once, by its first mount in the first namespace that has one. No I/O.
std::vector<DiskFilesystem> FilesystemsIn(const std::vector<MountNamespace>& namespaces,
                                          const std::string& filesystems);

}  // namespace ferry::bridge
