#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "ferry/v1/disk.pb.h"
#include "vmmanager/containers/container_inventory.h"
#include "vmmanager/jobs/job_registry.h"
#include "vmmanager/sandbox/overlay_files.h"
#include "vmmanager/sandbox/vm_inventory.h"

namespace ferry::vm {

// The disks of a host's VMs, as ferry.v1.DiskService has them. Thread: the executor's only.
class Disks {
 public:
  // Both must outlive it. `owner`: whom VMMs run as, and who has what is made; nullopt: as we do.
  // `containers` (nullptr: there are none) and `jobs` (nullptr: nobody sees them) too.
  Disks(VmInventory& inventory, const ContainerInventory* containers, OverlayFiles& files,
        JobRegistry* jobs, std::optional<std::pair<uid_t, gid_t>> owner)
      : inventory_(inventory), containers_(containers), files_(files), jobs_(jobs), owner_(owner) {}

  Task<absl::StatusOr<v1::Disk>> Create(v1::CreateDiskRequest request);
  Task<absl::StatusOr<v1::ListDisksResponse>> List(v1::ListDisksRequest request);
  Task<absl::StatusOr<v1::Disk>> Attach(v1::AttachDiskRequest request);
  Task<absl::Status> Detach(v1::DetachDiskRequest request);
  Task<absl::StatusOr<v1::Disk>> Resize(v1::ResizeDiskRequest request);

  Task<absl::StatusOr<v1::Disk>> Move(v1::MoveDiskRequest request);
  // Goes on with what a former daemon was moving. Once the VMs are adopted.
  void Settle();

  const Executor& executor() const { return inventory_.deps().executor; }

 private:
  Task<v1::Disk> Examine(v1::Disk disk);
  Task<absl::StatusOr<v1::Disk>> Answer(std::shared_ptr<UtilityVm> vm, std::string name);
  // Those that are listed: of containers only what they write to.
  std::vector<v1::Disk> DisksOf(const UtilityVm& vm) const;
  // The container that is meant by the name of its disk, as it is listed, or by its own name or id;
  // nullptr if none is, or the VM has a disk of that name.
  std::shared_ptr<VmContainer> FindWriter(const UtilityVm& vm, const std::string& wanted) const;
  Task<absl::StatusOr<v1::Disk>> GrowScratch(std::shared_ptr<UtilityVm> vm,
                                             std::shared_ptr<VmContainer> container,
                                             uint64_t bytes);
  Task<absl::StatusOr<uint64_t>> RoomNeeded(std::string file, DiskImage image);
  // What is to be moved, and whether it could be.
  Task<absl::StatusOr<DiskMoveWish>> PlanMove(std::shared_ptr<UtilityVm> vm,
                                              v1::MoveDiskRequest request);

  VmInventory& inventory_;
  const ContainerInventory* const containers_;
  OverlayFiles& files_;
  JobRegistry* const jobs_;
  const std::optional<std::pair<uid_t, gid_t>> owner_;
};

}  // namespace ferry::vm
