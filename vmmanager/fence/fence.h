#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "bridge/runtime/async.h"

// What is asked before a copy of a VM may run, beside the two journals of a migration.
namespace ferry::vm {

// An error's reasons where a fence says no.
inline constexpr char kFenceHeld[] = "fence_held";    // another copy may be run
inline constexpr char kFenceStale[] = "fence_stale";  // this host's record of the VM is outdated

// Levels of a fence: what it keeps off is on this host alone, or on all hosts that share it.
inline constexpr char kHostLock[] = "host_lock";
inline constexpr char kImageLock[] = "image_lock";

// FAILED_PRECONDITION "fence_held", with what a person can do.
absl::Status FenceHeld(absl::string_view message, absl::string_view next_step);

struct FenceClaim {
  std::string vm_id;
  std::string vm_name;  // for people
  uint64_t epoch = 0;   // with which the VM will run; from 1
};

// What a look at a VM's claim shows.
enum class FenceSight { kFree, kHeld };

// What becomes of a VM that this host has nothing of any more.
enum class FenceFate { kElsewhere, kDeleted };

// Of all copies of a VM one may run; it holds the VM's claim. The journals decide which; a fence is
// the second belt, for what they do not see. Thread: the executor's only; each call has a deadline
// of its own, and those for one VM take effect in the order in which they are made.
class Fence {
 public:
  virtual ~Fence() = default;

  // What it is, a stable word for the status of hosts, VMs and sessions, e.g. kImageLock.
  virtual std::string level() const = 0;

  // Before the VMM of a copy starts that is to be claimed later: so that the VMM can hold what
  // Claim takes.
  virtual Task<absl::Status> Prepare(std::string vm_id) = 0;

  // Before the copy here may run. It is held from then on, over the end of this process too, as
  // long as the copy's VMM lives. Repeated calls succeed, and at once. FAILED_PRECONDITION
  // "fence_held" or "fence_stale"; UNAVAILABLE if it cannot be told.
  virtual Task<absl::Status> Claim(FenceClaim claim) = 0;

  // Looks, as Claim would, and changes nothing; that the host with the journal `holder` has it is
  // no error.
  virtual Task<absl::StatusOr<FenceSight>> Look(FenceClaim claim, std::string holder) = 0;

  // The copy here does not run any more, nor will it before the next Claim. Its VMM may live on.
  virtual Task<void> Yield(std::string vm_id) = 0;

  // The same, and its VMM has ended.
  virtual Task<void> Release(std::string vm_id) = 0;

  // The same, and this host has nothing of the VM any more.
  virtual Task<void> Forget(std::string vm_id, FenceFate fate) = 0;
};

}  // namespace ferry::vm
