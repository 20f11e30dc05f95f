#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmmanager/sandbox/vm_inventory.h"

namespace ferry::vm {

// How much of something there is for a VM that is to come here. All in MiB.
struct Capacity {
  uint64_t needed_mb = 0;
  uint64_t available_mb = 0;
  uint64_t total_mb = 0;

  bool enough() const { return needed_mb <= available_mb; }
};

// Memory for a machine of that size and its VMM. What VMs that are arriving were promised, and what
// the administrator keeps for the host itself, is not available; `vm_id` is not counted.
absl::StatusOr<Capacity> MemoryFor(uint64_t memory_mb, const std::string& vm_id,
                                   const VmInventory& inventory);

// Room in the state folder for a VM's records, console and kept output. An empty folder's name
// means that nothing is kept.
absl::StatusOr<Capacity> StateRoom(const HostSettings& settings);

// RESOURCE_EXHAUSTED with the numbers if this host has not enough of either.
absl::Status CheckCapacity(uint64_t memory_mb, const std::string& vm_id,
                           const VmInventory& inventory);

}  // namespace ferry::vm
