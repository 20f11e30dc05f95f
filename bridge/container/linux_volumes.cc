#include "bridge/container/linux_volumes.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/container/mount_plan.h"
#include "bridge/container/name_files.h"
#include "bridge/container/scsi_disks.h"
#include "bridge/process/device_events.h"
#include "bridge/runtime/blocking_worker.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::bridge {
namespace {

using Options = LinuxVolumes::Options;

// Does what may hang on a thread of its own, which is left to itself if it is late.
Task<absl::Status> OnThread(milliseconds limit, std::string what,
                            std::function<absl::Status()> work) {
  BlockingWorker worker(co_await asio::this_coro::executor);
  co_return co_await worker.Run(limit, what.c_str(), std::move(work));
}

std::string NameOf(const ScsiDevice& device) {
  return absl::StrCat("the disk at controller ", device.controller, ", LUN ", device.lun);
}

// The device node, empty until the kernel has made it.
std::string DeviceNode(const Options& options, const ScsiDevice& device) {
  const std::string name = ScsiDiskName(device, options.sysfs);
  const std::string node = absl::StrCat(options.devices, "/", name);
  return !name.empty() && access(node.c_str(), F_OK) == 0 ? node : "";
}

// The node comes a moment before the kernel lets anybody open the disk.
Task<bool> CanBeOpened(Options options, ScsiDevice device) {
  const std::string node = DeviceNode(options, device);
  if (node.empty()) co_return false;
  std::function<absl::Status()> look = [node] {
    const bool opened = UniqueFd(open(node.c_str(), O_RDONLY | O_CLOEXEC)).valid();
    return opened ? absl::OkStatus() : absl::UnavailableError(node);
  };
  co_return (co_await OnThread(options.io_limit, node, std::move(look))).ok();
}

SpawnSpec FormatCommand(const std::string& program, const std::string& device) {
  SpawnSpec spec;
  spec.command = {program, "-q", "-F", "-t", "ext4", device};
  return spec;
}

absl::Status LoadModules(const KernelModules& modules, const std::string& filesystem) {
  for (const std::string& name : ModulesFor(filesystem)) RETURN_IF_ERROR(modules.Load(name));
  return absl::OkStatus();
}

absl::Status MakeOverlay(const Options& options, const KernelModules& modules,
                         const CombinedLayers& layers, const MountPlan& plan) {
  RETURN_IF_ERROR(LoadModules(modules, "overlay"));
  if (!layers.scratch_path.empty()) {
    RETURN_IF_ERROR(MakeFolder(UpperFolder(layers)));
    RETURN_IF_ERROR(MakeFolder(WorkFolder(layers)));
  }
  return options.mount(plan.source, layers.container_root_path, plan);
}

absl::Status LetGo(const std::string& folder, const std::string& node, const std::string& name) {
  // An overlay holds its layers' disks even after these were unmounted.
  if (!node.empty() && !UniqueFd(open(node.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC)).valid() &&
      errno == EBUSY) {
    return absl::FailedPreconditionError(absl::StrCat(name, " is in use"));
  }
  return WriteWord(folder + "/delete", "1");
}

}  // namespace

// Keeps a second call away from a disk or path while one is under way.
class LinuxVolumes::Claim {
 public:
  Claim(LinuxVolumes& volumes, std::string what)
      : volumes_(volumes), what_(std::move(what)), got_(volumes_.busy_.insert(what_).second) {}
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;
  ~Claim() {
    if (got_) volumes_.busy_.erase(what_);
  }
  absl::Status status() const {
    if (got_) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat("another call is at ", what_));
  }

 private:
  LinuxVolumes& volumes_;
  const std::string what_;
  const bool got_;
};

bool LinuxVolumes::IsOurs(const std::string& path) const {
  return std::find(mounted_.begin(), mounted_.end(), path) != mounted_.end();
}

// A second mount on the same place would hide the first, and be taken for it at the removal.
absl::Status LinuxVolumes::CheckFree(const std::string& path) {
  const auto late = late_.find(path);
  if (late != late_.end() && late->second->over()) {
    late_.erase(late);
  } else if (late != late_.end() && !IsOurs(path)) {
    return absl::FailedPreconditionError(
        absl::StrCat("a mount at ", path, " that was given up is still under way"));
  }
  ASSIGN_OR_RETURN(const bool mounted, IsMountPoint(options_.mount_table, path));
  if (!mounted && !IsOurs(path)) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat(path, " is a mount already"));
}

Task<absl::Status> LinuxVolumes::AwaitDisk(ScsiDevice device) {
  if (co_await CanBeOpened(options_, device)) co_return absl::OkStatus();
  CO_ASSIGN_OR_RETURN(const int host, ScsiHostNumber(device.controller, options_.sysfs));
  const std::string what = NameOf(device);
  // Before the scan, so that no announcement is missed.
  UniqueFd events = OpenDeviceEvents();
  // An announcement that got lost while the VM was on its way would not be repeated.
  const std::string file = absl::StrCat(options_.sysfs, "/class/scsi_host/host", host, "/scan");
  std::function<absl::Status()> scan = [file, device] {
    return WriteWord(file, absl::StrCat("0 0 ", device.lun));
  };
  const absl::Status ignored = co_await OnThread(options_.io_limit, what, std::move(scan));
  std::function<Task<bool>()> there = [this, device] { return CanBeOpened(options_, device); };
  co_return co_await AwaitDevice(std::move(events), what, options_.disk_limit, std::move(there));
}

Task<absl::Status> LinuxVolumes::EnsureFilesystem(std::string device, MappedVirtualDisk disk,
                                                  std::string* filesystem) {
  auto start = std::make_shared<absl::StatusOr<std::string>>("");
  std::function<absl::Status()> read = [start, device] {
    *start = ReadStart(device);
    return start->status();
  };
  CO_RETURN_IF_ERROR(co_await OnThread(options_.io_limit, device, std::move(read)));
  *filesystem = ProbeFilesystem(**start);
  if (!disk.ensure_filesystem || disk.read_only || !IsBlank(**start)) co_return absl::OkStatus();
  if (!disk.filesystem.empty() && disk.filesystem != "ext4") {
    co_return absl::InvalidArgumentError(
        absl::StrCat("the agent makes ext4 only, not ", disk.filesystem));
  }
  const SpawnSpec spec = FormatCommand(options_.format_program, device);
  CO_RETURN_IF_ERROR(co_await RunHelper(spec, options_.format_limit, &pids_));
  *filesystem = "ext4";
  co_return absl::OkStatus();
}

Task<absl::Status> LinuxVolumes::MountDisk(MappedVirtualDisk disk) {
  const Claim path(*this, disk.mount_path);
  CO_RETURN_IF_ERROR(path.status());
  const Claim device(*this, NameOf(ScsiDevice{disk.controller, disk.lun}));
  CO_RETURN_IF_ERROR(device.status());
  co_return co_await MountClaimed(std::move(disk));
}

Task<absl::Status> LinuxVolumes::MountClaimed(MappedVirtualDisk disk) {
  const ScsiDevice address{disk.controller, disk.lun};
  const std::string device = DeviceNode(options_, address);
  if (device.empty()) co_return absl::NotFoundError(absl::StrCat("there is no ", NameOf(address)));
  CO_RETURN_IF_ERROR(CheckFree(disk.mount_path));
  std::string found;
  CO_RETURN_IF_ERROR(co_await EnsureFilesystem(device, disk, &found));
  const std::string filesystem = disk.filesystem.empty() ? found : disk.filesystem;
  CO_ASSIGN_OR_RETURN(const MountPlan plan, PlanDisk(disk, filesystem));
  std::function<absl::Status()> work = [=, options = options_, modules = modules_,
                                        target = disk.mount_path] {
    const absl::Status loaded = LoadModules(modules, filesystem);
    return loaded.ok() ? options.mount(device, target, plan) : loaded;
  };
  co_return co_await Mount(device, disk.mount_path, std::move(work));
}

Task<absl::Status> LinuxVolumes::Mount(std::string what, std::string path,
                                       MountAttempt::Step mount) {
  auto attempt = std::make_shared<MountAttempt>();
  std::function<absl::Status()> work = [=, unmount = options_.unmount] {
    return attempt->Run(mount, [&] { return unmount(path); });
  };
  // Before it is, because it counts as mounted if it is late, or if nobody waits for it any more.
  mounted_.push_back(path);
  late_[path] = attempt;
  const absl::Status status = co_await OnThread(options_.io_limit, what, std::move(work));
  if (absl::IsDeadlineExceeded(status)) co_return status;
  late_.erase(path);
  if (!status.ok()) std::erase(mounted_, path);
  co_return status;
}

Task<absl::Status> LinuxVolumes::CombineLayers(CombinedLayers layers) {
  const std::string root = layers.container_root_path;
  CO_ASSIGN_OR_RETURN(const MountPlan plan, PlanOverlay(layers));
  const Claim claim(*this, root);
  CO_RETURN_IF_ERROR(claim.status());
  CO_RETURN_IF_ERROR(CheckFree(root));
  std::function<absl::Status()> work = [options = options_, modules = modules_,
                                        layers = std::move(layers), plan] {
    return MakeOverlay(options, modules, layers, plan);
  };
  co_return co_await Mount(root, root, std::move(work));
}

Task<absl::Status> LinuxVolumes::MountDirectory(MappedDirectory directory) {
  const std::string path = directory.mount_path;
  const Claim claim(*this, path);
  CO_RETURN_IF_ERROR(claim.status());
  CO_RETURN_IF_ERROR(CheckFree(path));
  std::function<absl::Status()> work = [options = options_, modules = modules_, path,
                                        plan = PlanDirectory(directory)] {
    const absl::Status loaded = LoadModules(modules, plan.type);
    return loaded.ok() ? options.mount(plan.source, path, plan) : loaded;
  };
  co_return co_await Mount(directory.share_name, path, std::move(work));
}

Task<absl::Status> LinuxVolumes::UnmountOnceFree(std::string path) {
  const auto end = std::chrono::steady_clock::now() + options_.held_limit;
  while (true) {
    std::function<absl::Status()> work = [path, unmount = options_.unmount] {
      return unmount(path);
    };
    // It may be let go of between the attempt and its answer.
    const bool was_held = options_.held && options_.held();
    const absl::Status status = co_await OnThread(options_.io_limit, path, std::move(work));
    const bool held = was_held || (options_.held && options_.held());
    const bool late = std::chrono::steady_clock::now() >= end;
    if (!absl::IsFailedPrecondition(status) || !held || late) co_return status;
    co_await Delay(options_.held_again);
  }
}

Task<absl::Status> LinuxVolumes::Unmount(std::string path) {
  const Claim claim(*this, path);
  CO_RETURN_IF_ERROR(claim.status());
  if (!IsOurs(path)) {
    CO_ASSIGN_OR_RETURN(const bool mounted, IsMountPoint(options_.mount_table, path));
    if (!mounted) co_return absl::OkStatus();
    co_return absl::FailedPreconditionError(absl::StrCat(path, " was not mounted by a request"));
  }
  const auto late = late_.find(path);
  if (late != late_.end() && late->second->GiveUp()) {
    // The mark stays until the thread has come back.
    std::erase(mounted_, path);
    co_return absl::OkStatus();
  }
  CO_RETURN_IF_ERROR(co_await UnmountOnceFree(path));
  std::erase(mounted_, path);
  late_.erase(path);
  co_return absl::OkStatus();
}

Task<absl::Status> LinuxVolumes::GrowDisk(MappedVirtualDisk disk) {
  const ScsiDevice address{disk.controller, disk.lun};
  const std::string name = NameOf(address);
  const Claim path(*this, disk.mount_path);
  CO_RETURN_IF_ERROR(path.status());
  const Claim claim(*this, name);
  CO_RETURN_IF_ERROR(claim.status());
  const std::string device = DeviceNode(options_, address);
  if (device.empty() || !IsOurs(disk.mount_path)) {
    co_return absl::NotFoundError(absl::StrCat(name, " is not mounted at ", disk.mount_path));
  }
  CO_ASSIGN_OR_RETURN(const std::string folder, ScsiDeviceFolder(address, options_.sysfs));
  std::function<absl::Status()> work = [folder, device, target = disk.mount_path,
                                        grow = options_.grow] {
    // The kernel is told of it, and may not have looked yet.
    const absl::Status looked = WriteWord(folder + "/rescan", "1");
    return looked.ok() ? grow(device, target) : looked;
  };
  co_return co_await OnThread(options_.io_limit, name, std::move(work));
}

Task<absl::Status> LinuxVolumes::RemoveDevice(ScsiDevice device) {
  const std::string name = NameOf(device);
  const Claim claim(*this, name);
  CO_RETURN_IF_ERROR(claim.status());
  CO_ASSIGN_OR_RETURN(const std::string folder, ScsiDeviceFolder(device, options_.sysfs));
  if (access(folder.c_str(), F_OK) != 0) co_return absl::OkStatus();
  const std::string node = DeviceNode(options_, device);
  std::function<absl::Status()> work = [=] { return LetGo(folder, node, name); };
  co_return co_await OnThread(options_.io_limit, name, std::move(work));
}

absl::Status LinuxVolumes::WriteBundle(const std::string& bundle, const BundleFiles& files) {
  RETURN_IF_ERROR(MakeFolder(bundle));
  for (const auto& [name, text] : files) {
    const std::string path = absl::StrCat(bundle, "/", name);
    std::ofstream file(path, std::ios::trunc);
    file << text;
    file.close();
    // Any user of the container reads those that are mounted into it, and only root writes to them.
    if (!file || chmod(path.c_str(), 0644) != 0) {
      return absl::InternalError(absl::StrCat("cannot write ", path));
    }
  }
  return absl::OkStatus();
}

// In place: whoever has it mounted would never see another file of that name.
absl::Status LinuxVolumes::RewriteBundleFile(const std::string& bundle, const std::string& name,
                                             const std::string& from, const std::string& to) {
  const std::string path = absl::StrCat(bundle, "/", name);
  const UniqueFd file(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  if (!file.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  std::string text(from.size() + 1, '\0');
  const ssize_t size = pread(file.get(), text.data(), text.size(), 0);
  if (size < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
  text.resize(static_cast<size_t>(size));
  if (text != from) return absl::FailedPreconditionError(absl::StrCat(path, " was changed"));
  if (pwrite(file.get(), to.data(), to.size(), 0) != static_cast<ssize_t>(to.size()) ||
      ftruncate(file.get(), static_cast<off_t>(to.size())) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path));
  }
  return absl::OkStatus();
}

void LinuxVolumes::DiscardBundle(const std::string& bundle) {
  unlink((bundle + "/config.json").c_str());
  for (const char* name : kNameFiles) unlink(absl::StrCat(bundle, "/", name).c_str());
  // What else is there is not the bundle's, and keeps the folder.
  rmdir(bundle.c_str());
}

Task<absl::Status> LinuxVolumes::RemoveBundle(std::string bundle) {
  const std::vector<std::string> all(mounted_.rbegin(), mounted_.rend());
  for (const std::string& path : all) {
    if (absl::StartsWith(path, bundle + "/")) CO_RETURN_IF_ERROR(co_await Unmount(path));
  }
  DiscardBundle(bundle);
  co_return absl::OkStatus();
}

Task<absl::StatusOr<UserFiles>> LinuxVolumes::ReadUserFiles(ContainerRoot root) {
  auto files = std::make_shared<UserFiles>();
  // Holds the folder open for as long as the thread needs it, also if nobody waits any more.
  std::function<absl::Status()> work = [files, root = std::move(root)]() -> absl::Status {
    ASSIGN_OR_RETURN(*files, ReadUserFilesIn(root));
    return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(
      co_await OnThread(options_.io_limit, "the container's users", std::move(work)));
  co_return *files;
}

Task<absl::StatusOr<std::vector<std::string>>> LinuxVolumes::FindNameFiles(ContainerRoot root,
                                                                           bool writable) {
  auto names = std::make_shared<std::vector<std::string>>();
  std::function<absl::Status()> work = [names, root = std::move(root), writable] {
    *names = NameFilesIn(root, writable);
    return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(co_await OnThread(options_.io_limit, "the container's /etc", std::move(work)));
  co_return *names;
}

Task<void> LinuxVolumes::UnmountAll() {
  if (mounted_.empty()) co_return;
  const std::vector<std::string> all(mounted_.rbegin(), mounted_.rend());
  std::function<absl::Status()> work = [all, unmount = options_.unmount] {
    for (const std::string& path : all) {
      const absl::Status ignored = unmount(path);
    }
    return absl::OkStatus();
  };
  const absl::Status ignored = co_await OnThread(options_.io_limit, "the mounts", std::move(work));
}

}  // namespace ferry::bridge
