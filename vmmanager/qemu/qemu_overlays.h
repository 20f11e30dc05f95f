#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "vmmanager/backend/overlays.h"

namespace ferry::vm {

class QemuMachine;

// ComputeSystem's verbs of the same names; one at a time.
Task<absl::Status> AddQemuOverlays(std::shared_ptr<QemuMachine> machine,
                                   std::vector<DiskOverlay> overlays);
Task<absl::Status> MergeQemuOverlay(std::shared_ptr<QemuMachine> machine, DiskPlace disk,
                                    std::string format, PlaceDiskFile place_file,
                                    MergeProgress progress);
Task<absl::Status> MergeLowerQemuOverlay(std::shared_ptr<QemuMachine> machine, LowerOverlay lower,
                                         MergeProgress progress);
Task<absl::Status> MoveQemuDisk(std::shared_ptr<QemuMachine> machine, DiskPlace disk,
                                DiskTarget target, PlaceDiskFile place_file,
                                MergeProgress progress);
Task<absl::StatusOr<DiskFiles>> ListQemuDiskFiles(std::shared_ptr<QemuMachine> machine);

}  // namespace ferry::vm
