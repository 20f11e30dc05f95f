#include "vmmanager/saving/snapshots.h"

#include <memory>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/containers/container_record.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

using state::v1::ContainerRecord;
using state::v1::SnapshotRecord;

absl::Status ContainersDiffer(const UtilityVm& vm, const std::string& why,
                              const std::string& next_step) {
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("VM ", vm.name(), " cannot go back to that snapshot: ", why),
      "containers_changed", next_step);
}

}  // namespace

absl::Status Snapshots::CheckRest(const UtilityVm& vm) const {
  if (containers_ == nullptr) return absl::OkStatus();
  if (const std::string id = containers_->UnreadableIn(vm.id()); !id.empty()) {
    return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("the record of container ", id.substr(0, 12), " in VM ", vm.name(),
                     " cannot be read, so no snapshot can be taken or loaded"),
        "container_unreadable",
        "Use the ferryd that wrote it; or delete the VM, which takes the container with it.");
  }
  for (const auto& container : containers_->Of(vm.id())) {
    if (!container->being_made() && !container->being_removed()) continue;
    return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("container ", container->name(), " in VM ", vm.name(), " is just being ",
                     container->being_made() ? "made" : "removed"),
        "container_changes", "Try again when that is done.");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ContainerRecord>> Snapshots::ContainersOf(const UtilityVm& vm) const {
  RETURN_IF_ERROR(CheckRest(vm));
  std::vector<ContainerRecord> records;
  if (containers_ == nullptr) return records;
  for (const auto& container : containers_->Of(vm.id())) records.push_back(container->Export());
  return records;
}

absl::Status Snapshots::CheckSame(const UtilityVm& vm, const SnapshotRecord& record) const {
  RETURN_IF_ERROR(CheckRest(vm));
  std::set<std::string> here;
  if (containers_ != nullptr) {
    for (const auto& container : containers_->Of(vm.id())) here.insert(container->id());
  }
  for (const ContainerRecord& container : record.containers()) {
    RETURN_IF_ERROR(FromRecord(container).status());
    if (here.erase(container.container_id()) > 0) continue;
    return ContainersDiffer(vm,
                            absl::StrCat("container ", container.container_id().substr(0, 12),
                                         " in it was removed since"),
                            "Delete the snapshot, or keep it for its disks.");
  }
  if (here.empty()) return absl::OkStatus();
  const std::string id = here.begin()->substr(0, 12);
  return ContainersDiffer(vm, absl::StrCat("container ", id, " was made since"),
                          absl::StrCat("Remove it first: ferryctl container rm ", id));
}

Task<absl::Status> Snapshots::Bring(std::string vm_id, SnapshotRecord record) {
  if (containers_ == nullptr) co_return absl::OkStatus();
  for (const auto& container : containers_->Of(vm_id)) {
    for (const ContainerRecord& then : record.containers()) {
      if (then.container_id() != container->id()) continue;
      CO_ASSIGN_OR_RETURN(StoredContainer stored, FromRecord(then));
      CO_RETURN_IF_ERROR(co_await container->GoOnAs(std::move(stored)));
    }
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<v1::Snapshot>> Snapshots::AsJob(Vm vm, std::string doing, std::string tag,
                                                    Work work) {
  auto result = std::make_shared<absl::StatusOr<v1::Snapshot>>(absl::UnknownError("not done"));
  JobDescription about{v1::JOB_KIND_SNAPSHOT, vm->id(), vm->name(), absl::StrCat(doing, " ", tag)};
  JobWork run = [result, work = std::move(work)](std::shared_ptr<Job> job) -> Task<absl::Status> {
    job->ForbidCancel("its VMM does it in one piece, and hears nobody meanwhile");
    job->SetPhase("the guest stands still");
    *result = co_await work();
    co_return result->status();
  };
  CO_RETURN_IF_ERROR(co_await RunAsJob(jobs_, std::move(about), std::move(run)));
  co_return *std::move(result);
}

Task<absl::StatusOr<v1::Snapshot>> Snapshots::Save(v1::SaveSnapshotRequest request) {
  CO_ASSIGN_OR_RETURN(const Vm vm, vms_.Find(request.vm()));
  CO_RETURN_IF_ERROR(CheckRest(*vm));
  SnapshotWish wish;
  wish.tag = request.tag();
  wish.devices = {request.devices().begin(), request.devices().end()};
  wish.vmstate = request.vmstate();
  wish.live = request.live();
  Work take = [this, vm, wish]() -> Task<absl::StatusOr<v1::Snapshot>> {
    TakingSteps steps;
    steps.containers = [this, vm] { return ContainersOf(*vm); };
    co_return co_await vm->SaveSnapshot(wish, std::move(steps));
  };
  co_return co_await AsJob(vm, "take", request.tag(), std::move(take));
}

Task<absl::StatusOr<v1::Snapshot>> Snapshots::Load(v1::LoadSnapshotRequest request) {
  CO_ASSIGN_OR_RETURN(const Vm vm, vms_.Find(request.vm()));
  Work load = [this, vm, tag = request.tag()] { return GoBack(vm, tag); };
  co_return co_await AsJob(vm, "load", request.tag(), std::move(load));
}

Task<absl::StatusOr<v1::Snapshot>> Snapshots::GoBack(Vm vm, std::string tag) {
  GoingBackSteps steps;
  steps.check = [this, vm](const SnapshotRecord& record) { return CheckSame(*vm, record); };
  const auto brought = std::make_shared<bool>(false);
  steps.before_run = [this, brought, id = vm->id()](SnapshotRecord record) -> Task<absl::Status> {
    *brought = true;
    co_return co_await Bring(id, std::move(record));
  };
  auto loaded = co_await vm->LoadSnapshot(std::move(tag), std::move(steps));
  // They are as the VM is, whatever that is now.
  if (*brought && containers_ != nullptr) co_await containers_->VmArrived(vm->id());
  co_return loaded;
}

Task<absl::Status> Snapshots::Delete(v1::DeleteSnapshotRequest request) {
  CO_ASSIGN_OR_RETURN(const Vm vm, vms_.Find(request.vm()));
  Work remove = [vm, tag = request.tag()]() -> Task<absl::StatusOr<v1::Snapshot>> {
    CO_RETURN_IF_ERROR(co_await vm->DeleteSnapshot(tag));
    co_return v1::Snapshot();
  };
  co_return (co_await AsJob(vm, "delete", request.tag(), std::move(remove))).status();
}

Task<absl::StatusOr<std::vector<v1::Snapshot>>> Snapshots::List(v1::ListSnapshotsRequest request) {
  CO_ASSIGN_OR_RETURN(const Vm vm, vms_.Find(request.vm()));
  co_return co_await vm->ListSnapshots();
}

}  // namespace ferry::vm
