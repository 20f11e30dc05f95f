#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "bridge/container/mount_attempt.h"
#include "bridge/container/mounts.h"
#include "bridge/container/volumes.h"
#include "bridge/process/helper.h"
#include "bridge/process/kernel_modules.h"

namespace ferry::bridge {

// The kernel's disks and mounts. File systems' modules are loaded when they are first needed.
// Whatever touches a disk runs on a thread of its own, so that one that hangs holds up nobody else.
class LinuxVolumes : public Volumes {
 public:
  struct Options {
    // A guest's clock can run many times faster than the host's while it waits for a disk.
    milliseconds disk_limit{600'000};  // until the kernel has a disk
    milliseconds io_limit{600'000};    // for reading, mounting, unmounting
    milliseconds format_limit{600'000};
    std::string format_program = "/sbin/mke2fs";
    std::string sysfs = "/sys";
    std::string devices = "/dev";
    std::string mount_table = "/proc/self/mountinfo";
    std::function<absl::Status(const std::string& source, const std::string& target,
                               const MountPlan& plan)>
        mount = MountAt;
    std::function<absl::Status(const std::string& path)> unmount = UnmountAt;
    std::function<absl::Status(const std::string& device, const std::string& path)> grow = GrowAt;
    // Optional: whether filesystems are held open for a moment. What is in use then is tried again.
    std::function<bool()> held;
    milliseconds held_limit{60'000};
    milliseconds held_again{100};
  };

  // `pids` must outlive all that is under way.
  LinuxVolumes(Options options, HelperPids& pids) : options_(std::move(options)), pids_(pids) {}

  Task<absl::Status> AwaitDisk(ScsiDevice device) override;
  Task<absl::Status> MountDisk(MappedVirtualDisk disk) override;
  Task<absl::Status> CombineLayers(CombinedLayers layers) override;
  Task<absl::Status> MountDirectory(MappedDirectory directory) override;
  Task<absl::Status> Unmount(std::string path) override;
  Task<absl::Status> GrowDisk(MappedVirtualDisk disk) override;
  Task<absl::Status> RemoveDevice(ScsiDevice device) override;
  absl::Status WriteBundle(const std::string& bundle, const BundleFiles& files) override;
  absl::Status RewriteBundleFile(const std::string& bundle, const std::string& name,
                                 const std::string& from, const std::string& to) override;
  void DiscardBundle(const std::string& bundle) override;
  Task<absl::Status> RemoveBundle(std::string bundle) override;
  Task<absl::StatusOr<UserFiles>> ReadUserFiles(ContainerRoot root) override;
  Task<absl::StatusOr<std::vector<std::string>>> FindNameFiles(ContainerRoot root,
                                                               bool writable) override;

  // Unmounts whatever it has mounted, as far as the disks do not hang.
  Task<void> UnmountAll();

 private:
  class Claim;

  Task<absl::Status> MountClaimed(MappedVirtualDisk disk);
  Task<absl::Status> UnmountOnceFree(std::string path);
  Task<absl::Status> EnsureFilesystem(std::string device, MappedVirtualDisk disk,
                                      std::string* filesystem);
  // Runs `mount` on a thread. What is late may come all the same, until it is removed.
  Task<absl::Status> Mount(std::string what, std::string path, MountAttempt::Step mount);
  absl::Status CheckFree(const std::string& path);
  bool IsOurs(const std::string& path) const;

  const Options options_;
  HelperPids& pids_;
  const KernelModules modules_;
  std::vector<std::string> mounted_;                           // by requests, the last one last
  std::map<std::string, std::shared_ptr<MountAttempt>> late_;  // under way, or given up
  std::set<std::string> busy_;  // paths and disks at which a call is under way
};

}  // namespace ferry::bridge
