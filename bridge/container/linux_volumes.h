#pragma once

#include <string>

#include "bridge/container/volumes.h"
#include "bridge/process/kernel_modules.h"

namespace ferry::bridge {

// The kernel's disks and mounts. File systems' modules are loaded when they are first needed.
class LinuxVolumes : public Volumes {
 public:
  struct Options {
    milliseconds disk_limit{30'000};  // until the kernel has a disk
    milliseconds format_limit{120'000};
    std::string format_program = "/sbin/mke2fs";
  };

  explicit LinuxVolumes(Options options) : options_(std::move(options)) {}

  Task<absl::Status> AwaitDisk(ScsiDevice device) override;
  Task<absl::Status> MountDisk(MappedVirtualDisk disk) override;
  absl::Status CombineLayers(const CombinedLayers& layers) override;
  absl::Status Unmount(const std::string& path) override;
  absl::Status RemoveDevice(const ScsiDevice& device) override;
  absl::Status WriteBundle(const std::string& bundle, const std::string& config) override;
  absl::Status RemoveBundle(const std::string& bundle) override;

 private:
  Task<absl::Status> EnsureFilesystem(std::string device, MappedVirtualDisk disk,
                                      std::string* filesystem);
  absl::Status LoadModules(const std::string& filesystem);

  const Options options_;
  KernelModules modules_;
};

}  // namespace ferry::bridge
