#include "bridge/container/linux_volumes.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "bridge/container/mount_plan.h"
#include "bridge/container/mount_table.h"
#include "bridge/container/scsi_disks.h"
#include "bridge/process/device_events.h"
#include "bridge/process/helper.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::bridge {
namespace fs = std::filesystem;
namespace {

// The device node, empty until the kernel has made it.
std::string DeviceNode(const ScsiDevice& device) {
  const std::string name = ScsiDiskName(device);
  const std::string node = absl::StrCat("/dev/", name);
  return !name.empty() && access(node.c_str(), F_OK) == 0 ? node : "";
}

// The node comes a moment before the kernel lets anybody open the disk.
bool CanBeOpened(const ScsiDevice& device) {
  const std::string node = DeviceNode(device);
  return !node.empty() && UniqueFd(open(node.c_str(), O_RDONLY | O_CLOEXEC)).valid();
}

absl::StatusOr<std::string> ReadStart(const std::string& device) {
  const UniqueFd file(open(device.c_str(), O_RDONLY | O_CLOEXEC));
  std::string start(kProbeSize, '\0');
  const ssize_t got = file.valid() ? pread(file.get(), start.data(), start.size(), 0) : -1;
  if (got < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", device));
  start.resize(static_cast<size_t>(got));
  return start;
}

absl::Status WriteWord(const std::string& path, const std::string& word) {
  const UniqueFd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (file.valid() && write(file.get(), word.data(), word.size()) >= 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path));
}

absl::Status MakeFolder(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (!error) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cannot make ", path, ": ", error.message()));
}

absl::Status MountAt(const std::string& source, const std::string& target, const MountPlan& plan) {
  RETURN_IF_ERROR(MakeFolder(target));
  const char* type = plan.type.empty() ? nullptr : plan.type.c_str();
  if (mount(source.c_str(), target.c_str(), type, plan.flags, plan.data.c_str()) == 0) {
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot mount ", source, " (",
                                                 type == nullptr ? "bind" : type, ") on ", target));
}

SpawnSpec FormatCommand(const std::string& program, const std::string& device) {
  SpawnSpec spec;
  spec.command = {program, "-q", "-F", "-t", "ext4", device};
  return spec;
}

std::string MountInfo() {
  std::ifstream file("/proc/self/mountinfo");
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// A second mount on the same place would hide the first, and be taken for it at the removal.
absl::Status CheckFree(const std::string& path) {
  const std::string info = MountInfo();
  for (const std::string& point : MountPointsBelow(info, path)) {
    if (point == path) return absl::AlreadyExistsError(absl::StrCat(path, " is a mount already"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status LinuxVolumes::LoadModules(const std::string& filesystem) {
  for (const std::string& name : ModulesFor(filesystem)) RETURN_IF_ERROR(modules_.Load(name));
  return absl::OkStatus();
}

Task<absl::Status> LinuxVolumes::AwaitDisk(ScsiDevice device) {
  if (CanBeOpened(device)) co_return absl::OkStatus();
  CO_ASSIGN_OR_RETURN(const int host, ScsiHostNumber(device.controller));
  // An announcement that got lost while the VM was on its way would not be repeated.
  const absl::Status ignored = WriteWord(absl::StrCat("/sys/class/scsi_host/host", host, "/scan"),
                                         absl::StrCat("0 0 ", device.lun));
  const std::string what =
      absl::StrCat("the disk at controller ", device.controller, ", LUN ", device.lun);
  std::function<bool()> there = [device] { return CanBeOpened(device); };
  co_return co_await AwaitDevice(what.c_str(), options_.disk_limit, std::move(there));
}

Task<absl::Status> LinuxVolumes::EnsureFilesystem(std::string device, MappedVirtualDisk disk,
                                                  std::string* filesystem) {
  CO_ASSIGN_OR_RETURN(const std::string start, ReadStart(device));
  *filesystem = ProbeFilesystem(start);
  if (!disk.ensure_filesystem || disk.read_only || !IsBlank(start)) co_return absl::OkStatus();
  if (!disk.filesystem.empty() && disk.filesystem != "ext4") {
    co_return absl::InvalidArgumentError(
        absl::StrCat("the agent makes ext4 only, not ", disk.filesystem));
  }
  const SpawnSpec spec = FormatCommand(options_.format_program, device);
  CO_RETURN_IF_ERROR(co_await RunHelper(spec, options_.format_limit));
  *filesystem = "ext4";
  co_return absl::OkStatus();
}

Task<absl::Status> LinuxVolumes::MountDisk(MappedVirtualDisk disk) {
  const std::string device = DeviceNode(ScsiDevice{disk.controller, disk.lun});
  if (device.empty()) {
    co_return absl::NotFoundError(
        absl::StrCat("there is no disk at controller ", disk.controller, ", LUN ", disk.lun));
  }
  CO_RETURN_IF_ERROR(CheckFree(disk.mount_path));
  std::string found;
  CO_RETURN_IF_ERROR(co_await EnsureFilesystem(device, disk, &found));
  const std::string filesystem = disk.filesystem.empty() ? found : disk.filesystem;
  CO_ASSIGN_OR_RETURN(const MountPlan plan, PlanDisk(disk, filesystem));
  CO_RETURN_IF_ERROR(LoadModules(filesystem));
  co_return MountAt(device, disk.mount_path, plan);
}

absl::Status LinuxVolumes::CombineLayers(const CombinedLayers& layers) {
  ASSIGN_OR_RETURN(const MountPlan plan, PlanOverlay(layers));
  RETURN_IF_ERROR(CheckFree(layers.container_root_path));
  RETURN_IF_ERROR(LoadModules("overlay"));
  if (!layers.scratch_path.empty()) {
    RETURN_IF_ERROR(MakeFolder(UpperFolder(layers)));
    RETURN_IF_ERROR(MakeFolder(WorkFolder(layers)));
  }
  return MountAt(plan.source, layers.container_root_path, plan);
}

absl::Status LinuxVolumes::Unmount(const std::string& path) {
  if (umount2(path.c_str(), UMOUNT_NOFOLLOW) == 0) {
    rmdir(path.c_str());
    return absl::OkStatus();
  }
  if (errno == ENOENT || errno == EINVAL) return absl::OkStatus();
  if (errno == EBUSY) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is in use; delete its container"));
  }
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot unmount ", path));
}

absl::Status LinuxVolumes::RemoveDevice(const ScsiDevice& device) {
  ASSIGN_OR_RETURN(const std::string folder, ScsiDeviceFolder(device));
  if (access(folder.c_str(), F_OK) != 0) return absl::OkStatus();
  // An overlay holds its layers' disks even after these were unmounted.
  const std::string node = DeviceNode(device);
  if (!node.empty() && !UniqueFd(open(node.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC)).valid() &&
      errno == EBUSY) {
    return absl::FailedPreconditionError(absl::StrCat("the disk at controller ", device.controller,
                                                      ", LUN ", device.lun, " is in use"));
  }
  return WriteWord(folder + "/delete", "1");
}

absl::Status LinuxVolumes::WriteBundle(const std::string& bundle, const std::string& config) {
  RETURN_IF_ERROR(MakeFolder(bundle));
  const std::string path = bundle + "/config.json";
  std::ofstream file(path, std::ios::trunc);
  file << config;
  file.close();
  if (file) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cannot write ", path));
}

absl::Status LinuxVolumes::RemoveBundle(const std::string& bundle) {
  // What is mounted there is somebody's disk: unmounted, never emptied.
  for (const std::string& point : MountPointsBelow(MountInfo(), bundle)) {
    RETURN_IF_ERROR(Unmount(point));
  }
  std::error_code error;
  fs::remove_all(bundle, error);
  if (!error) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cannot remove ", bundle, ": ", error.message()));
}

}  // namespace ferry::bridge
