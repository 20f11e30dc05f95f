#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "vmmanager/backend/snapshots.h"

namespace ferry::vm {

class QemuMachine;

// ComputeSystem's verbs of the same names; one at a time. What this daemon can see to be wrong is
// refused before QEMU is asked: QEMU 7.2 takes a second snapshot of a tag that only some disks
// have, and passes over the deletion of one that none has.
Task<absl::Status> SaveQemuSnapshot(std::shared_ptr<QemuMachine> machine, SnapshotOptions options);
Task<absl::Status> LoadQemuSnapshot(std::shared_ptr<QemuMachine> machine, SnapshotOptions options);
Task<absl::Status> DeleteQemuSnapshot(std::shared_ptr<QemuMachine> machine, std::string tag,
                                      std::vector<DiskPlace> disks);
Task<absl::StatusOr<std::vector<DiskSnapshots>>> ListQemuSnapshots(
    std::shared_ptr<QemuMachine> machine);

}  // namespace ferry::vm
