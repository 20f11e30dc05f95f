#include "vmmanager/fence/fake_fence.h"

#include "absl/strings/str_cat.h"

namespace ferry::vm {

void FakeFence::Note(std::string call) {
  calls.push_back(call);
  on_call(call);
}

bool FakeFence::Holds(const std::string& vm_id) const {
  const auto claim = claims_->find(vm_id);
  return claim != claims_->end() && claim->second == this;
}

Task<absl::Status> FakeFence::Prepare(std::string) {
  Note("prepare");
  co_return absl::OkStatus();
}

Task<absl::Status> FakeFence::Claim(FenceClaim claim) {
  Note(absl::StrCat("claim ", claim.epoch));
  AsyncEvent* const gate = before_claim ? before_claim(claim) : nullptr;
  if (gate != nullptr) co_await gate->Wait();
  if (!refusal.ok()) co_return refusal;
  const auto [holder, taken] = claims_->try_emplace(claim.vm_id, this);
  if (taken || holder->second == this) co_return absl::OkStatus();
  co_return FenceHeld(absl::StrCat("another copy of VM ", claim.vm_name, " may be run"),
                      "go on with that copy");
}

Task<absl::StatusOr<FenceSight>> FakeFence::Look(FenceClaim claim, std::string) {
  if (!refusal.ok()) co_return refusal;
  co_return claims_->contains(claim.vm_id) ? FenceSight::kHeld : FenceSight::kFree;
}

void FakeFence::Drop(const std::string& vm_id) {
  if (Holds(vm_id)) claims_->erase(vm_id);
}

Task<void> FakeFence::Yield(std::string vm_id) {
  Note("yield");
  Drop(vm_id);
  co_return;
}

Task<void> FakeFence::Release(std::string vm_id) {
  Note("release");
  if (before_release != nullptr) co_await before_release->Wait();
  Drop(vm_id);
  co_return;
}

Task<void> FakeFence::Forget(std::string vm_id, FenceFate fate) {
  Note(fate == FenceFate::kDeleted ? "delete" : "forget");
  Drop(vm_id);
  co_return;
}

}  // namespace ferry::vm
