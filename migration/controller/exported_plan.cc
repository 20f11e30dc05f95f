#include "migration/controller/exported_plan.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/sandbox/checkpoint_moves.h"
#include "vmmanager/sandbox/disk_copies.h"
#include "vmmanager/sandbox/vm_payload.h"

namespace ferry::migration {

absl::Status CheckCopyStorage(v1::CopyStorage storage) {
  if (v1::CopyStorage_IsValid(storage)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("copy_storage is ", static_cast<int>(storage), ", but must be from 0 to 3"));
}

Task<absl::StatusOr<vm::PlanState>> DescribeForExport(const ControllerDeps& deps,
                                                      std::shared_ptr<vm::UtilityVm> machine,
                                                      std::string session_id,
                                                      v1::CopyStorage storage,
                                                      std::vector<vm::DiskMark>* marks) {
  const ControllerDeps* const host = &deps;
  vm::PlanState plan;
  plan.session_id = session_id;
  plan.source_address = host->own_address();
  plan.source_journal_id = host->store().journal_id();
  CO_ASSIGN_OR_RETURN(
      plan.vm, co_await vm::DescribeVm(machine, host->inventory.deps().backend, host->digests));
  v1::VmSpec spec = machine->spec();
  *marks = co_await vm::MarkDisks(std::move(spec), plan.vm.mutable_disks(), &host->digests);
  vm::CheckpointRecords records = machine->checkpoints();
  const vm::CopyWish wish{.storage = storage, .has_checkpoints = !records.empty()};
  v1::VmSpec own = machine->spec();
  co_await vm::DescribeCopies(std::move(own), wish, plan.vm.mutable_disks(), &host->digests,
                              host->inventory.deps().overlays);
  CO_ASSIGN_OR_RETURN(const std::vector<state::v1::CheckpointPayload> checkpoints,
                      co_await vm::DescribeForMove(std::move(records), machine->FilesInUse(),
                                                   &host->digests.reads()));
  plan.vm.mutable_checkpoints()->Add(checkpoints.begin(), checkpoints.end());
  if (host->exports != nullptr) {
    std::string id = machine->id();
    CO_ASSIGN_OR_RETURN(const std::vector<state::v1::ContainerRecord> containers,
                        co_await host->exports->Describe(std::move(id), storage));
    plan.vm.mutable_containers()->Add(containers.begin(), containers.end());
  }
  co_return plan;
}

}  // namespace ferry::migration
