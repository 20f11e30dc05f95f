#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bridge/protocol/container_messages.h"

// SCSI disks by their address, as sysfs shows them. Synchronous.
namespace ferry::bridge {

// The number that the kernel gave to the n-th SCSI controller. NOT_FOUND says how many there are.
absl::StatusOr<int> ScsiHostNumber(uint32_t controller, const std::string& sysfs = "/sys");

// The folder of a device in sysfs; it may not be there (yet).
absl::StatusOr<std::string> ScsiDeviceFolder(const ScsiDevice& device,
                                             const std::string& sysfs = "/sys");

// The name of a device's disk ("sda"), empty if there is none (yet).
std::string ScsiDiskName(const ScsiDevice& device, const std::string& sysfs = "/sys");

}  // namespace ferry::bridge
