#include "vmmanager/saving/snapshots.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/saving/job_words.h"

namespace ferry::vm {
namespace {

using state::v1::SnapshotRecord;

ReturningContainers::Records RecordsOf(const SnapshotRecord& snapshot) {
  return {snapshot.containers().begin(), snapshot.containers().end()};
}

}  // namespace

absl::Status Snapshots::CheckRest(const UtilityVm& vm) const {
  return returning_.CheckRest(
      vm, absl::StrCat("no snapshot of VM ", vm.name(), " can be taken or loaded"));
}

absl::StatusOr<ReturningContainers::Records> Snapshots::ContainersOf(const UtilityVm& vm) const {
  RETURN_IF_ERROR(CheckRest(vm));
  return returning_.Of(vm);
}

absl::Status Snapshots::CheckSame(const UtilityVm& vm, const SnapshotRecord& snapshot) const {
  RETURN_IF_ERROR(CheckRest(vm));
  const absl::Status same = returning_.CheckSame(vm, RecordsOf(snapshot));
  if (!absl::IsFailedPrecondition(same)) return same;
  return rpc::ErrorWithReason(
      same.code(),
      absl::StrCat("VM ", vm.name(), " cannot go back to that snapshot: ", same.message()),
      "containers_changed", "Have the containers of then, or keep the snapshot for its disks.");
}

Task<absl::StatusOr<v1::Snapshot>> Snapshots::AsJob(Vm vm, std::string doing, std::string done,
                                                    std::string tag, Work work) {
  auto result = std::make_shared<absl::StatusOr<v1::Snapshot>>(absl::UnknownError("not done"));
  JobDescription about{v1::JOB_KIND_SNAPSHOT, vm->id(), vm->name(), absl::StrCat(doing, tag)};
  JobWork run =
      [result, done = absl::StrCat(done, " ", tag), work = std::move(work),
       is_known = vm->snapshots().contains(tag)](std::shared_ptr<Job> job) -> Task<absl::Status> {
    if (is_known) job->SetPhase(kOfKnownSnapshot);
    job->ForbidCancel("its VMM does it in one piece, and hears nobody meanwhile");
    *result = co_await work();
    if (result->ok()) job->SetResult(done);
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
  co_return co_await AsJob(vm, kTake, "took", request.tag(), std::move(take));
}

Task<absl::StatusOr<v1::Snapshot>> Snapshots::Load(v1::LoadSnapshotRequest request) {
  CO_ASSIGN_OR_RETURN(const Vm vm, vms_.Find(request.vm()));
  Work load = [this, vm, tag = request.tag()] { return GoBack(vm, tag); };
  co_return co_await AsJob(vm, kLoad, "went back to", request.tag(), std::move(load));
}

Task<absl::StatusOr<v1::Snapshot>> Snapshots::GoBack(Vm vm, std::string tag) {
  GoingBackSteps steps;
  steps.check = [this, vm](const SnapshotRecord& record) { return CheckSame(*vm, record); };
  const auto brought = std::make_shared<bool>(false);
  steps.before_run = [this, brought, id = vm->id()](SnapshotRecord snapshot) -> Task<absl::Status> {
    *brought = true;
    // What they were before is lost with all that the VM did since.
    co_return co_await returning_.GoOnAs(id, RecordsOf(snapshot), nullptr);
  };
  auto loaded = co_await vm->LoadSnapshot(std::move(tag), std::move(steps));
  // They are as the VM is, whatever that is now.
  if (*brought) co_await returning_.TakeUp(vm->id());
  co_return loaded;
}

Task<absl::Status> Snapshots::Delete(v1::DeleteSnapshotRequest request) {
  CO_ASSIGN_OR_RETURN(const Vm vm, vms_.Find(request.vm()));
  Work remove = [vm, tag = request.tag()]() -> Task<absl::StatusOr<v1::Snapshot>> {
    CO_RETURN_IF_ERROR(co_await vm->DeleteSnapshot(tag));
    co_return v1::Snapshot();
  };
  co_return (co_await AsJob(vm, kDelete, "deleted", request.tag(), std::move(remove))).status();
}

Task<absl::StatusOr<std::vector<v1::Snapshot>>> Snapshots::List(v1::ListSnapshotsRequest request) {
  CO_ASSIGN_OR_RETURN(const Vm vm, vms_.Find(request.vm()));
  co_return co_await vm->ListSnapshots();
}

}  // namespace ferry::vm
