#include "vmmanager/saving/vm_sealing.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unix_time.h"
#include "vmmanager/sandbox/disk_generations.h"
#include "vmmanager/sandbox/vm_payload.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {
namespace {

constexpr uint32_t kMostWorkers = 16;
constexpr int32_t kMostLevel = 19;

}  // namespace

absl::StatusOr<SavedFileOptions> ToFileOptions(const v1::SaveOptions& wanted) {
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

Task<absl::StatusOr<std::string>> VmSealing::Plan(std::shared_ptr<UtilityVm> vm,
                                                  std::string session) {
  PlanState plan;
  plan.session_id = std::move(session);
  plan.source_journal_id = vms_.deps().store.journal_id();
  CO_ASSIGN_OR_RETURN(plan.vm, co_await DescribeVm(vm, vms_.deps().backend, digests_));
  const ReturningContainers::Records containers = returning_.Of(*vm);
  plan.vm.mutable_containers()->Assign(containers.begin(), containers.end());
  co_return EncodePlan(plan);
}

Task<absl::StatusOr<std::string>> VmSealing::Head(std::shared_ptr<UtilityVm> vm,
                                                  guest::GuestState guest, std::string kind) {
  const std::string session = absl::StrCat(kind, "-", VmInventory::NewId());
  state::v1::SavedHead head;
  head.set_schema_version(kStateSchemaVersion);
  head.set_saved_unix_ms(NowUnixMs());
  CO_ASSIGN_OR_RETURN(*head.mutable_plan(), co_await Plan(vm, session));
  CutState cut;
  cut.session_id = session;
  cut.vm_id = vm->id();
  cut.plan_sha256 = PlanDigest(head.plan());
  cut.guest = std::move(guest);
  cut.guest_link = vm->guest_link();
  cut.paused_by_user = vm->paused_by_user();
  cut.containers = returning_.Of(*vm);
  CO_ASSIGN_OR_RETURN(*head.mutable_cut(), EncodeCut(cut));
  co_return head.SerializeAsString();
}

Task<absl::StatusOr<std::string>> VmSealing::Tail(schema::ComputeSystem document) {
  state::v1::SavedTail tail;
  tail.set_schema_version(kStateSchemaVersion);
  CO_ASSIGN_OR_RETURN(const std::vector<state::v1::DiskGeneration> disks,
                      co_await ReadGenerations(std::move(document), &digests_.reads()));
  tail.mutable_disks()->Add(disks.begin(), disks.end());
  co_return tail.SerializeAsString();
}

absl::Status WithRoomNeeded(const absl::Status& why, const UtilityVm& vm) {
  if (!absl::IsResourceExhausted(why)) return why;
  return absl::ResourceExhaustedError(
      absl::StrCat(why.message(), "; a VM of ", vm.memory_mb(),
                   " MiB takes up to that much (less with --compress zstd)"));
}

}  // namespace ferry::vm
