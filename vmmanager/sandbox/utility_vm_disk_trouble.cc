// The part of UtilityVm whose disks fail on the host.
#include <spdlog/spdlog.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
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
  return absl::StrCat(absl::StrJoin(each, "; "),
                      ". Nothing is lost: mend that, and resume it: ferryctl vm resume ",
                      row_.name);
}

Task<void> UtilityVm::StandStillForDisk(std::shared_ptr<UtilityVm> self,
                                        std::shared_ptr<ComputeSystem> system) {
  const AsyncMutex::Guard lock = co_await self->operation_.Lock();
  if (!co_await self->StandsStillForDisk(system)) co_return;
  // So that a migration that fails, or whoever else has stopped it, does not let it run again.
  const absl::Status stays = co_await system->Pause();
  if (!stays.ok()) spdlog::warn("vm {}: {}", self->row_.name, stays.ToString());
  auto troubles = co_await system->ListDiskTroubles();
  if (!troubles.ok()) troubles.emplace();
  // Where somebody else decides whether it runs, it comes to the same disk again.
  const bool ours = self->system_ == system && self->phase_ == Phase::kUp && !self->paused_ &&
                    !self->undecided() && !self->detached_;
  if (!ours) co_return;
  ++self->standstills_;
  if (self->guest_ != nullptr) self->guest_->StandsStill();
  self->paused_ = true;
  self->row_.desired_state = "paused";
  self->SetPhase(Phase::kUp, self->DescribeTroubles(*troubles));
  spdlog::error("vm {}: it stands still: {}", self->row_.name, self->row_.state_reason);
  self->deps_.events.Publish("vm.disk_failed", self->row_.id,
                             {{"name", self->row_.name}, {"reason", self->row_.state_reason}});
  const absl::Status stored = co_await self->Persist();
  if (!stored.ok()) spdlog::error("vm {}: {}", self->row_.name, stored.ToString());
}

// Whoever held the lock may have let it run again.
Task<bool> UtilityVm::StandsStillForDisk(std::shared_ptr<ComputeSystem> system) {
  if (system_ != system || phase_ != Phase::kUp || paused_ || detached_) co_return false;
  const schema::PropertyQuery query;
  const auto properties = co_await system->GetProperties(query);
  co_return properties.ok() && properties->state == schema::SystemState::kPaused;
}

Task<void> UtilityVm::RecallTroubles(std::shared_ptr<UtilityVm> self) {
  std::shared_ptr<ComputeSystem> system = self->system_;
  if (system == nullptr || !self->paused_) co_return;
  const auto troubles = co_await system->ListDiskTroubles();
  const bool still = self->system_ == system && self->paused_ && self->phase_ == Phase::kUp;
  if (!still || !troubles.ok() || troubles->empty()) co_return;
  self->SetPhase(Phase::kUp, self->DescribeTroubles(*troubles));
}

}  // namespace ferry::vm
