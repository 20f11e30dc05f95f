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
  if (each.empty()) each.emplace_back("a disk of its fails");
  return absl::StrJoin(each, "; ");
}

void UtilityVm::NoteTroubles(const std::vector<DiskTrouble>& troubles) {
  SetPhase(Phase::kUp,
           absl::StrCat(DescribeTroubles(troubles), ". Nothing is lost: mend that, and resume ",
                        "it: ferryctl vm resume ", row_.name));
}

void UtilityVm::LookForTroubles() {
  if (!disk_failed_.is_set() || detached_) return;
  looks_again_ = true;
  if (!std::exchange(looks_, true)) Spawn(deps_.executor, StandStillForDisk(shared_from_this()));
}

Task<void> UtilityVm::StandStillForDisk(std::shared_ptr<UtilityVm> self) {
  while (std::exchange(self->looks_again_, false)) {
    const std::string before = self->row_.state_reason;
    if (!co_await self->PauseIfStopped()) continue;
    // The VMM may hang with its disk, so nobody has to wait for this.
    co_await RecallTroubles(self);
    if (self->phase_ == Phase::kUp && self->row_.state_reason != before) self->TellTroubles();
  }
  self->looks_ = false;
}

void UtilityVm::TellTroubles() {
  spdlog::error("vm {}: it stands still: {}", row_.name, row_.state_reason);
  deps_.events.Publish("vm.disk_failed", row_.id,
                       {{"name", row_.name}, {"reason", row_.state_reason}});
}

Task<bool> UtilityVm::PauseIfStopped() {
  const AsyncMutex::Guard lock = co_await operation_.Lock();
  const std::shared_ptr<ComputeSystem> system = system_;
  const auto is_ours = [this, &system] {
    return system != nullptr && system_ == system && phase_ == Phase::kUp && !frozen_ && !detached_;
  };
  // Whoever decides whether it runs has it looked at again.
  if (!is_ours()) co_return false;
  const bool runs = co_await Executes();
  if (!is_ours()) co_return false;
  disk_failed_.Reset();
  // Whoever held the lock may have let it go on.
  if (runs) co_return false;
  if (!paused_) co_await PauseForDisk(system);
  co_return true;
}

Task<void> UtilityVm::PauseForDisk(std::shared_ptr<ComputeSystem> system) {
  ++standstills_;
  if (guest_ != nullptr) guest_->StandsStill();
  paused_ = true;
  row_.desired_state = "paused";
  // Which one it is, is still to be asked for.
  NoteTroubles({});
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

Task<void> UtilityVm::AdoptTroubles() {
  std::shared_ptr<ComputeSystem> system = system_;
  if (!paused_ && !co_await Executes() && system != nullptr) {
    const auto troubles = co_await system->ListDiskTroubles();
    const bool fails = troubles.ok() && !troubles->empty();
    if (!fails || system_ != system || paused_) co_return;
    co_await PauseForDisk(system);
    if (phase_ != Phase::kUp) co_return;
    NoteTroubles(*troubles);
    TellTroubles();
    PersistSoon();
  } else {
    co_await RecallTroubles(shared_from_this());
  }
}

Task<absl::Status> UtilityVm::AwaitDiskFailure() {
  std::shared_ptr<ComputeSystem> system = system_;
  co_await disk_failed_.Wait();
  std::vector<DiskTrouble> which;
  if (system != nullptr) {
    auto troubles = co_await system->ListDiskTroubles();
    if (troubles.ok()) which = *std::move(troubles);
  }
  co_return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("VM ", row_.name, " cannot boot: ", DescribeTroubles(which)), "disk_failed",
      absl::StrCat("Mend that. Then start it again: ferryctl start ", row_.name));
}

}  // namespace ferry::vm
