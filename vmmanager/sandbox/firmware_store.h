#pragma once

#include <cstddef>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "vmmanager/sandbox/file_reads.h"
#include "vmmanager/sandbox/host_settings.h"

// The variable stores of VMs with UEFI firmware: a raw file each, which the VMM writes what the
// guest's firmware is to remember to. They are small and mostly empty, so records and plans carry
// what is in them, packed.
namespace ferry::vm {

// What a store has at most.
inline constexpr size_t kMaxStoreBytes = 1024 * 1024;

// Where a VM of this host has its store.
std::string StorePathOf(const FirmwareSettings& firmware, const std::string& vm_id);

// FAILED_PRECONDITION "no_firmware", with what to do, unless this host has what a VM with UEFI
// firmware needs. `reads` must outlive the task; so it is below.
Task<absl::Status> CheckHasFirmware(FileReads* reads, FirmwareSettings firmware);

// What is in a store, packed.
Task<absl::StatusOr<std::string>> ReadStore(FileReads* reads, std::string path);

// Makes one, in the place of a former one that no VMM has open. With nothing in `packed` it is a
// copy of the host's empty one.
Task<absl::Status> MakeStore(FileReads* reads, FirmwareSettings firmware, std::string path,
                             std::string packed);

// Puts that into one that a VMM has open, and writes to only once its guest runs again.
Task<absl::Status> RewriteStore(FileReads* reads, std::string path, std::string packed);

void RemoveStore(const std::string& path);
// Removes those of all other VMs.
void RemoveOtherStores(const FirmwareSettings& firmware, const std::set<std::string>& vm_ids);

// INVALID_ARGUMENT if it is none, or of no possible size.
absl::StatusOr<std::string> UnpackStore(const std::string& packed);
std::string PackStore(const std::string& bytes);

}  // namespace ferry::vm
