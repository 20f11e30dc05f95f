#include "bridge/container/scsi_disks.h"

#include <algorithm>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace fs = std::filesystem;

absl::StatusOr<int> ScsiHostNumber(uint32_t controller, const std::string& sysfs) {
  std::vector<int> numbers;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(sysfs + "/class/scsi_host", ignored)) {
    const std::string name = entry.path().filename().string();
    int number = 0;
    if (absl::StartsWith(name, "host") && absl::SimpleAtoi(name.substr(4), &number)) {
      numbers.push_back(number);
    }
  }
  std::sort(numbers.begin(), numbers.end());
  if (controller < numbers.size()) return numbers[controller];
  return absl::NotFoundError(
      absl::StrCat("there is no SCSI controller ", controller, "; the VM has ", numbers.size()));
}

absl::StatusOr<std::string> ScsiDeviceFolder(const ScsiDevice& device, const std::string& sysfs) {
  ASSIGN_OR_RETURN(const int host, ScsiHostNumber(device.controller, sysfs));
  return absl::StrCat(sysfs, "/bus/scsi/devices/", host, ":0:0:", device.lun);
}

std::string ScsiDiskName(const ScsiDevice& device, const std::string& sysfs) {
  const absl::StatusOr<std::string> folder = ScsiDeviceFolder(device, sysfs);
  if (!folder.ok()) return "";
  std::error_code error;
  const fs::directory_iterator disks(*folder + "/block", error);
  if (error || disks == fs::directory_iterator()) return "";
  return disks->path().filename().string();
}

}  // namespace ferry::bridge
