#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "ferry/v1/vm.pb.h"
#include "vmmanager/schema/compute_system.h"

// The disks that a VM's specification has, among all that are in its machine.
namespace ferry::vm {

// The one controller that every machine has (qemu_command_line.h), and the first that the guest
// finds.
inline constexpr char kDiskController[] = "0";

// A disk's place, as ModifySettingRequest names it.
std::string DiskResource(const std::string& lun);

// Where the disk of that number is. The first that come without a place are at LUN 0, 1, ...
uint32_t LunOf(const v1::VmSpec& spec, int index);
// The number of the disk that is there, or has that name; nullopt if it is none of the VM's own.
std::optional<int> OwnDiskAt(const v1::VmSpec& spec, const std::string& lun);
std::optional<int> OwnDiskNamed(const v1::VmSpec& spec, const std::string& name);

// INVALID_ARGUMENT if two would be at one place, or one where there is none.
absl::Status CheckLuns(const v1::VmSpec& spec);
// Changes which there are; the others stay where they are.
void AddOwnDisk(v1::VmSpec* spec, v1::DiskSpec disk);
void RemoveOwnDisk(v1::VmSpec* spec, int index);
// Whether all of them are in that machine, where they belong.
bool HasOwnDisks(const schema::ComputeSystem& document, const v1::VmSpec& spec);

// As it is in the machine's document.
schema::Attachment AttachmentFor(const v1::DiskSpec& disk);

}  // namespace ferry::vm
