#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "ferry/v1/vm.pb.h"
#include "vmmanager/sandbox/file_reads.h"
#include "vmmanager/sandbox/overlay_files.h"
#include "vmmanager/schema/compute_system.h"

// Disks of a VM that comes from another host, which this one does not see: their content comes too,
// into new files. Each session has a folder of its own for them, in which a small file says that
// they are drafts, until the VM is this host's. Who gives the session up removes the folder; what
// is no draft any more it leaves alone.
namespace ferry::vm {

struct ArrivingDisk {
  std::string name;
  std::string lun;  // on kDiskController
  std::string format;
  uint64_t bytes = 0;       // that the guest sees
  uint64_t used_bytes = 0;  // of room, about, that its content takes
  std::string file = {};    // see PlaceArrivingDisks
  std::string below = {};   // the file of this host's that it lies over; empty: none
  std::string below_format = {};
};

struct ArrivalFolder {
  std::string state_folder;
  std::string vm_id;
  std::string session_id;
  std::optional<std::pair<uid_t, gid_t>> owner;  // the VMMs' user, if that is another

  std::string path() const;
};

// Gives each its file, in the machine's document and in the specification. INVALID_ARGUMENT if the
// two do not have such a disk.
absl::Status PlaceArrivingDisks(const ArrivalFolder& folder, std::vector<ArrivingDisk>* disks,
                                schema::ComputeSystem* document, v1::VmSpec* spec);

// So many bytes can come, and leave `reserve` bytes. The arguments must outlive the task.
Task<absl::StatusOr<uint64_t>> ArrivalRoom(OverlayFiles* files, std::string state_folder,
                                           uint64_t reserve);
absl::Status NoRoomForDisks(uint64_t wanted, uint64_t room);
// RESOURCE_EXHAUSTED if there is no room for what comes, and `reserve` bytes more.
Task<absl::Status> CheckArrivalRoom(OverlayFiles* files, std::string state_folder,
                                    std::vector<ArrivingDisk> disks, uint64_t reserve);
// Makes the folder and empty disks. ALREADY_EXISTS if there is such a folder. After an error
// something may be left, for RemoveArrivals.
Task<absl::Status> MakeArrivingDisks(FileReads* reads, OverlayFiles* files, ArrivalFolder folder,
                                     std::vector<ArrivingDisk> disks);
// They are the VM's from now on. Idempotent.
Task<absl::Status> KeepArrivals(FileReads* reads, ArrivalFolder folder);
// Fine if there is no such folder.
Task<absl::Status> RemoveArrivals(FileReads* reads, ArrivalFolder folder);

}  // namespace ferry::vm
