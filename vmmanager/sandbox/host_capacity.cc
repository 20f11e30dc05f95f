#include "vmmanager/sandbox/host_capacity.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::vm {
namespace {

// The VMM's own: devices, buffers, and what software emulation translates.
constexpr uint64_t kVmmMb = 64;
// The kept output of a VM's processes (16 MiB at most), its console and the journal's growth.
constexpr uint64_t kStateMb = 32;
constexpr uint64_t kBytesInMib = 1024 * 1024;

absl::Status Refuse(const std::string& what, const Capacity& capacity) {
  return absl::ResourceExhaustedError(absl::StrCat("the VM needs ", capacity.needed_mb, " MiB of ",
                                                   what, ", and this host has ",
                                                   capacity.available_mb, " MiB available"));
}

}  // namespace

absl::StatusOr<Capacity> MemoryFor(uint64_t memory_mb, const std::string& vm_id,
                                   const VmInventory& inventory) {
  ASSIGN_OR_RETURN(const HostMemory memory, inventory.deps().backend.memory());
  uint64_t promised = inventory.deps().settings.memory_reserve_mb;
  for (const auto& vm : inventory.List()) {
    // Its VMM takes hold of the memory only as it arrives.
    if (vm->id() != vm_id && vm->state() == v1::VM_STATE_INCOMING) {
      promised += vm->memory_mb() + kVmmMb;
    }
  }
  Capacity capacity;
  capacity.needed_mb = memory_mb + kVmmMb;
  capacity.available_mb = memory.available_mb - std::min(memory.available_mb, promised);
  capacity.total_mb = memory.total_mb;
  return capacity;
}

absl::StatusOr<Capacity> StateRoom(const HostSettings& settings) {
  Capacity capacity;
  if (settings.state_folder.empty()) return capacity;
  struct statvfs room {};
  if (::statvfs(settings.state_folder.c_str(), &room) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot look into ", settings.state_folder));
  }
  capacity.needed_mb = kStateMb;
  capacity.available_mb = uint64_t{room.f_bavail} * room.f_frsize / kBytesInMib;
  capacity.total_mb = uint64_t{room.f_blocks} * room.f_frsize / kBytesInMib;
  return capacity;
}

absl::Status CheckCapacity(uint64_t memory_mb, const std::string& vm_id,
                           const VmInventory& inventory) {
  ASSIGN_OR_RETURN(const Capacity memory, MemoryFor(memory_mb, vm_id, inventory));
  if (!memory.enough()) return Refuse("memory", memory);
  const HostSettings& settings = inventory.deps().settings;
  ASSIGN_OR_RETURN(const Capacity room, StateRoom(settings));
  if (!room.enough()) return Refuse(absl::StrCat("room in ", settings.state_folder), room);
  return absl::OkStatus();
}

}  // namespace ferry::vm
