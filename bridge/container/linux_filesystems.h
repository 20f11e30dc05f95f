#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bridge/container/filesystems.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::bridge {

// Those of the kernel, in the mount namespaces of all processes. Each is worked on by a thread of
// its own, so that a disk that hangs holds up nobody else.
class LinuxFilesystems : public Filesystems {
 public:
  struct Options {
    std::string proc = "/proc";
  };

  explicit LinuxFilesystems(Options options) : options_(std::move(options)) {}

  Task<absl::StatusOr<std::vector<DiskFilesystem>>> Writable() override;
  Task<absl::Status> Freeze(DiskFilesystem it) override;
  Task<absl::Status> Thaw(DiskFilesystem it) override;

 private:
  const Options options_;
  // By device. What is open can be thawed wherever it was mounted, and whoever unmounts it.
  std::map<std::string, std::shared_ptr<UniqueFd>> frozen_;
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
