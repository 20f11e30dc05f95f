// How a VM is written.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unix_time.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/vm_payload.h"
#include "vmmanager/saving/disk_generations.h"
#include "vmmanager/saving/saved_states.h"
#include "vmmanager/saving/saving_jobs.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {
namespace {

constexpr uint32_t kMostWorkers = 16;
constexpr int32_t kMostLevel = 19;

absl::StatusOr<SavedFileOptions> ToOptions(const v1::SaveOptions& wanted) {
  SavedFileOptions options;
  if (wanted.compression() == v1::SAVE_COMPRESSION_ZSTD) {
    options.compression = SaveCompression::kZstd;
  } else if (wanted.compression_level() != 0 || wanted.compression_workers() != 0) {
    return absl::InvalidArgumentError("compression_level and compression_workers are for zstd");
  }
  if (wanted.compression_level() < 0 || wanted.compression_level() > kMostLevel) {
    return absl::InvalidArgumentError(absl::StrCat("compression_level is ",
                                                   wanted.compression_level(), "; it may be 1 to ",
                                                   kMostLevel, ", or 0 for 1"));
  }
  if (wanted.compression_workers() > kMostWorkers) {
    return absl::InvalidArgumentError(
        absl::StrCat("compression_workers is ", wanted.compression_workers(), "; it may be 1 to ",
                     kMostWorkers, ", or 0 for 1"));
  }
  options.level = std::max(wanted.compression_level(), 1);
  options.workers = std::max(wanted.compression_workers(), 1u);
  options.bypass_cache = wanted.bypass_cache();
  return options;
}

}  // namespace

Task<absl::StatusOr<std::string>> SavedStates::SealPlan(Vm vm, std::string session) {
  PlanState plan;
  plan.session_id = std::move(session);
  plan.source_journal_id = vms_.deps().store.journal_id();
  CO_ASSIGN_OR_RETURN(plan.vm, co_await DescribeVm(vm, vms_.deps().backend, digests_));
  const ReturningContainers::Records containers = returning_.Of(*vm);
  plan.vm.mutable_containers()->Assign(containers.begin(), containers.end());
  co_return EncodePlan(plan);
}

Task<absl::StatusOr<std::string>> SavedStates::SealTail(Vm vm) {
  state::v1::SavedTail tail;
  tail.set_schema_version(kStateSchemaVersion);
  CO_ASSIGN_OR_RETURN(const std::vector<state::v1::DiskGeneration> disks,
                      co_await ReadGenerations(vm->document(), &digests_.reads()));
  tail.mutable_disks()->Add(disks.begin(), disks.end());
  co_return tail.SerializeAsString();
}

Task<absl::Status> SavedStates::Write(Vm vm, std::string file, bool own, v1::SaveVmRequest request,
                                      std::shared_ptr<Job> job) {
  CO_ASSIGN_OR_RETURN(SavedFileOptions options, ToOptions(request.options()));
  auto writing = std::make_shared<FileBeingSaved>(vms_.deps().executor);
  CO_RETURN_IF_ERROR(
      co_await writing->Create(file, std::move(options), request.options().key_file()));
  ShowSave(job, writing, vm->spec().memory_mb() << 20);

  SaveSteps steps;
  steps.live_on = request.live();
  steps.begin = [this, vm, writing](guest::GuestState guest) -> Task<absl::StatusOr<UniqueFd>> {
    // Since it was asked whether it can be saved, one may have been begun to be removed.
    CO_RETURN_IF_ERROR(CheckContainersRest(*vm));
    const std::string session = absl::StrCat("save-", VmInventory::NewId());
    state::v1::SavedHead head;
    head.set_schema_version(kStateSchemaVersion);
    head.set_saved_unix_ms(NowUnixMs());
    CO_ASSIGN_OR_RETURN(*head.mutable_plan(), co_await SealPlan(vm, session));
    CutState cut;
    cut.session_id = session;
    cut.vm_id = vm->id();
    cut.plan_sha256 = PlanDigest(head.plan());
    cut.guest = std::move(guest);
    cut.guest_link = vm->guest_link();
    cut.paused_by_user = vm->paused_by_user();
    cut.containers = returning_.Of(*vm);
    CO_ASSIGN_OR_RETURN(*head.mutable_cut(), EncodeCut(cut));
    co_return co_await writing->Begin(head.SerializeAsString());
  };
  steps.seal =
      [this, vm, writing, file, own, job,
       key_file = request.options().key_file()]() -> Task<absl::StatusOr<state::v1::SavedRecord>> {
    CO_RETURN_IF_ERROR(co_await writing->Taken());
    ShowAllTaken(*job);
    CO_ASSIGN_OR_RETURN(std::string tail, co_await SealTail(vm));
    CO_ASSIGN_OR_RETURN(const SavedFileInfo info, co_await writing->Commit(std::move(tail)));
    state::v1::SavedRecord record;
    record.set_schema_version(kStateSchemaVersion);
    record.set_file(file);
    record.set_sha256(info.sha256);
    record.set_kept(!own);
    record.set_saved_unix_ms(NowUnixMs());
    record.set_file_bytes(info.file_bytes);
    record.set_memory_bytes(info.memory_bytes);
    record.set_compressed(info.compression == SaveCompression::kZstd);
    record.set_key_file(key_file);
    job->SetResult(absl::StrCat("saved in ", file));
    co_return record;
  };
  steps.discard = [vm, writing](absl::Status cause) -> Task<absl::Status> {
    absl::Status why = co_await writing->Discard(std::move(cause));
    if (!absl::IsResourceExhausted(why)) co_return why;
    co_return absl::ResourceExhaustedError(
        absl::StrCat(why.message(), "; a VM of ", vm->spec().memory_mb(),
                     " MiB takes up to that much (less with --compress zstd)"));
  };
  co_return co_await vm->Save(std::move(steps));
}

}  // namespace ferry::vm
