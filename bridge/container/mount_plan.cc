#include "bridge/container/mount_plan.h"

#include <sys/mount.h>

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"

namespace ferry::bridge {
namespace {

// mount(2) takes one page, with the zero at its end.
constexpr size_t kMaxMountData = 4095;

// MS_NOSYMFOLLOW, of which the C library does not know yet.
constexpr unsigned long kNoSymlinks = 256;

bool HasAt(std::string_view start, size_t offset, std::string_view magic) {
  return start.size() >= offset + magic.size() && start.substr(offset, magic.size()) == magic;
}

const std::map<std::string, unsigned long>& MountFlags() {
  static const std::map<std::string, unsigned long> flags = {
      {"ro", MS_RDONLY},        {"nosuid", MS_NOSUID},     {"nodev", MS_NODEV},
      {"noexec", MS_NOEXEC},    {"noatime", MS_NOATIME},   {"nodiratime", MS_NODIRATIME},
      {"sync", MS_SYNCHRONOUS}, {"relatime", MS_RELATIME}, {"dirsync", MS_DIRSYNC}};
  return flags;
}

void AddData(const std::string& word, std::string* data) {
  if (!data->empty()) *data += ",";
  *data += word;
}

}  // namespace

std::string ProbeFilesystem(std::string_view start) {
  using namespace std::string_view_literals;
  if (HasAt(start, 0, "hsqs"sv)) return "squashfs";
  if (HasAt(start, 1024, "\xe2\xe1\xf5\xe0"sv)) return "erofs";
  if (HasAt(start, 1024 + 0x38, "\x53\xef"sv)) return "ext4";
  return "";
}

bool IsBlank(std::string_view start) {
  return start.size() >= kProbeSize &&
         std::all_of(start.begin(), start.end(), [](char byte) { return byte == 0; });
}

absl::StatusOr<MountPlan> PlanDisk(const MappedVirtualDisk& disk, const std::string& filesystem) {
  const bool only_read = filesystem == "erofs" || filesystem == "squashfs";
  if (!only_read && filesystem != "ext4") {
    return absl::InvalidArgumentError(absl::StrCat(
        "the disk at ", disk.controller, ":", disk.lun, " holds ",
        filesystem.empty() ? "no file system that is known" : absl::StrCat("'", filesystem, "'"),
        "; the agent mounts erofs, squashfs and ext4"));
  }
  if (only_read && !disk.read_only) {
    return absl::InvalidArgumentError(
        absl::StrCat(filesystem, " can only be mounted read-only; set ReadOnly"));
  }
  MountPlan plan;
  plan.type = filesystem;
  if (disk.read_only) plan.flags |= MS_RDONLY;
  // A journal that was not closed must not be replayed onto a disk that others read as well.
  if (disk.read_only && filesystem == "ext4") AddData("noload", &plan.data);
  for (const std::string& option : disk.options) {
    const auto flag = MountFlags().find(option);
    if (flag != MountFlags().end()) {
      plan.flags |= flag->second;
    } else if (option != "rw" && !option.empty()) {
      AddData(option, &plan.data);
    }
  }
  if (plan.data.size() > kMaxMountData) {
    return absl::InvalidArgumentError("the mount options are too long");
  }
  return plan;
}

MountPlan PlanDirectory(const MappedDirectory& directory) {
  MountPlan plan;
  plan.source = directory.share_name;
  plan.type = "virtiofs";
  // Whoever may write to the folder could otherwise put a link where a container's mount begins.
  plan.flags = kNoSymlinks | MS_NODEV;
  if (directory.read_only) plan.flags |= MS_RDONLY;
  return plan;
}

std::vector<std::string> ModulesFor(const std::string& filesystem) {
  // ext4 asks for its checksum by a name that no module carries.
  if (filesystem == "ext4") return {"crc32c_generic", "ext4"};
  return {filesystem};
}

std::string UpperFolder(const CombinedLayers& layers) {
  return absl::StrCat(layers.scratch_path, "/upper");
}

std::string WorkFolder(const CombinedLayers& layers) {
  return absl::StrCat(layers.scratch_path, "/work");
}

absl::StatusOr<MountPlan> PlanOverlay(const CombinedLayers& layers) {
  if (layers.layers.empty()) return absl::InvalidArgumentError("there are no layers to combine");
  MountPlan plan;
  if (layers.scratch_path.empty() && layers.layers.size() == 1) {
    // Without an upper layer overlayfs wants at least two.
    plan.source = layers.layers[0].path;
    plan.flags = MS_BIND | MS_RDONLY;
    return plan;
  }
  plan.source = plan.type = "overlay";
  // The first is the topmost, both in the request and for the kernel.
  std::string lower;
  for (const CombinedLayers::Layer& layer : layers.layers) {
    absl::StrAppend(&lower, lower.empty() ? "" : ":", layer.path);
  }
  plan.data = absl::StrCat("lowerdir=", lower);
  if (layers.scratch_path.empty()) {
    plan.flags |= MS_RDONLY;
  } else {
    absl::StrAppend(&plan.data, ",upperdir=", UpperFolder(layers), ",workdir=", WorkFolder(layers));
  }
  if (plan.data.size() > kMaxMountData) {
    return absl::InvalidArgumentError(
        absl::StrCat("the paths of ", layers.layers.size(),
                     " layers are too long together for one mount; give them shorter ones"));
  }
  return plan;
}

}  // namespace ferry::bridge
