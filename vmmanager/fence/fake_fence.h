#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "vmmanager/fence/fence.h"

namespace ferry::vm {

class FakeFence;

// Who holds the claim of each VM, by its id; shared by the fences of hosts that fence each other.
using FakeClaims = std::map<std::string, const FakeFence*>;

// A fence in memory. Its claims outlive a daemon as those of a running VMM do.
class FakeFence final : public Fence {
 public:
  explicit FakeFence(std::shared_ptr<FakeClaims> claims) : claims_(std::move(claims)) {}

  std::string level() const override { return "fake"; }
  Task<absl::Status> Prepare(std::string vm_id) override;
  Task<absl::Status> Claim(FenceClaim claim) override;
  Task<absl::StatusOr<FenceSight>> Look(FenceClaim claim, std::string holder) override;
  Task<void> Yield(std::string vm_id) override;
  Task<void> Release(std::string vm_id) override;
  Task<void> Forget(std::string vm_id, FenceFate fate) override;

  bool Holds(const std::string& vm_id) const;
  // From now on it fences those that share these.
  void Share(std::shared_ptr<FakeClaims> claims) { claims_ = std::move(claims); }

  absl::Status refusal;            // of each Claim and Look, unless OK
  std::vector<std::string> calls;  // "prepare", "claim EPOCH", "yield", "release", "forget" (or
                                   // "delete"), in order
  std::function<void(const std::string& call)> on_call = [](const std::string&) {};
  // What a claim waits for before it is decided, or nullptr.
  std::function<AsyncEvent*(const FenceClaim& claim)> before_claim;
  AsyncEvent* before_release = nullptr;  // likewise

 private:
  void Note(std::string call);
  void Drop(const std::string& vm_id);

  std::shared_ptr<FakeClaims> claims_;
};

}  // namespace ferry::vm
