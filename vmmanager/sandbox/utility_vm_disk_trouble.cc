// The part of UtilityVm whose disks fail on the host.
#include <spdlog/spdlog.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/machine_document.h"
#include "vmmanager/sandbox/utility_vm.h"

namespace ferry::vm {

std::string UtilityVm::DescribeTroubles(const std::vector<DiskTrouble>& troubles) const {
  std::vector<std::string> each;
  for (const auto& [name, disk] : DisksByName(document_)) {
    for (const DiskTrouble& trouble : troubles) {
      if (trouble.disk != disk.place) continue;
      each.push_back(absl::StrCat("its disk ", name, " (", disk.disk.path, ") ",
                                  trouble.no_room ? "has no room left on its host"
                                                  : "fails with an I/O error on its host"));
    }
  }
  if (each.empty()) each.emplace_back("a disk of its fails on its host");
  return absl::StrJoin(each, "; ");
}

void UtilityVm::NoteTroubles(const std::vector<DiskTrouble>& troubles) {
  SetPhase(Phase::kUp,
           absl::StrCat(DescribeTroubles(troubles), ". Nothing is lost: mend that, and resume ",
                        "it: ferryctl vm resume ", row_.name));
}

void UtilityVm::LookForTroubles() {
  if (system_ == nullptr || detached_) return;
  Spawn(deps_.executor, StandStillForDisk(shared_from_this(), system_));
}

bool UtilityVm::MayStandStillForDisk(const std::shared_ptr<ComputeSystem>& system) const {
  return system_ == system && phase_ == Phase::kUp && !paused_ && !frozen_ && !detached_;
}

Task<void> UtilityVm::StandStillForDisk(std::shared_ptr<UtilityVm> self,
                                        std::shared_ptr<ComputeSystem> system) {
  while (true) {
    {
      const AsyncMutex::Guard lock = co_await self->operation_.Lock();
      if (!self->MayStandStillForDisk(system)) co_return;
      // Whoever held the lock may have let it run again.
      if (co_await self->Executes()) co_return;
      const auto troubles = co_await system->ListDiskTroubles();
      if (!self->MayStandStillForDisk(system)) co_return;
      if (troubles.ok()) co_return co_await self->PauseForDisk(system, *troubles);
    }
    // Its VMM may hang with the disk.
    co_await Delay(self->deps_.settings.retry_pause);
  }
}

Task<void> UtilityVm::PauseForDisk(std::shared_ptr<ComputeSystem> system,
                                   std::vector<DiskTrouble> troubles) {
  if (troubles.empty()) co_return;
  ++standstills_;
  if (guest_ != nullptr) guest_->StandsStill();
  paused_ = true;
  row_.desired_state = "paused";
  NoteTroubles(troubles);
  spdlog::error("vm {}: it stands still: {}", row_.name, row_.state_reason);
  deps_.events.Publish("vm.disk_failed", row_.id,
                       {{"name", row_.name}, {"reason", row_.state_reason}});
  // Else a migration that fails lets it run again.
  const absl::Status stays = co_await system->Pause();
  if (!stays.ok()) spdlog::warn("vm {}: {}", row_.name, stays.ToString());
  const absl::Status stored = co_await Persist();
  if (!stored.ok()) spdlog::error("vm {}: {}", row_.name, stored.ToString());
}

Task<void> UtilityVm::RecallTroubles(std::shared_ptr<UtilityVm> self) {
  std::shared_ptr<ComputeSystem> system = self->system_;
  if (system == nullptr || !self->paused_) co_return;
  const auto troubles = co_await system->ListDiskTroubles();
  const bool still = self->system_ == system && self->paused_ && self->phase_ == Phase::kUp;
  if (!still || !troubles.ok() || troubles->empty()) co_return;
  self->NoteTroubles(*troubles);
  self->PersistSoon();
}

Task<absl::Status> UtilityVm::AwaitDiskFailure() {
  std::shared_ptr<ComputeSystem> system = system_;
  while (true) {
    co_await disk_failed_.Wait();
    disk_failed_.Reset();
    const auto troubles = co_await system->ListDiskTroubles();
    if (!troubles.ok() || troubles->empty() || co_await Executes()) continue;
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("VM ", row_.name, " cannot boot: ", DescribeTroubles(*troubles)),
        "disk_failed", absl::StrCat("Mend that. Then start it again: ferryctl start ", row_.name));
  }
}

}  // namespace ferry::vm
