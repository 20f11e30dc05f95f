#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "ferry/v1/vm.pb.h"
#include "vmmanager/backend/compute_system.h"
#include "vmmanager/sandbox/host_settings.h"
#include "vmmanager/schema/compute_system.h"

namespace ferry::vm {

class FileReads;

// Fills in the defaults of a VM's specification and refuses what cannot be: INVALID_ARGUMENT names
// the member, its value and what is allowed. FAILED_PRECONDITION "unknown_field" if it has a field
// that this ferryd does not know.
absl::StatusOr<v1::VmSpec> CompleteSpec(const v1::VmSpec& spec);
// The same of its memory and CPUs alone.
absl::Status CompleteSize(v1::VmSpec* spec);
// What may be changed of a VM whatever it does, but not during a migration.
void CopySettings(const v1::VmSpec& from, v1::VmSpec* to);

// Whether a VM like that can be saved at all, be it where it is stopped or in a checkpoint:
// FAILED_PRECONDITION "vm_has_shares", naming the first, if it shares folders, for what a guest has
// open in them cannot be saved. `next_step` is what to do instead.
absl::Status CheckSharesNothing(const v1::VmSpec& spec, const std::string& next_step);
// INVALID_ARGUMENT or FAILED_PRECONDITION if it cannot be saved where it is stopped, and says so.
absl::Status CheckSaveOnStop(const v1::VmSpec& spec);

// A specification as it is stored. INTERNAL if it cannot be written, or read.
absl::Status WriteSpec(const v1::VmSpec& spec, std::string* json);
absl::Status ReadSpec(const std::string& json, v1::VmSpec* spec);

// Puts the real path in the place of each share's: what a symbolic link on the way leads to later
// is not what was asked for. INVALID_ARGUMENT if two are the same folder.
Task<absl::Status> ResolveShares(FileReads* reads, v1::VmSpec* spec);

// INVALID_ARGUMENT if a VM cannot be pinned to that CPU model here; says which ones are near.
absl::Status CheckCpuModel(const std::string& model, const BackendInfo& backend);

// INVALID_ARGUMENT if this host cannot lay out the VM that way.
absl::Status CheckLayout(const v1::VmSpec& spec, const BackendInfo& backend);

// Gives a machine the memory and CPUs of a completed specification.
void SetSize(const v1::VmSpec& spec, schema::ComputeSystem* document);
// "256 MiB of memory and 1 CPU".
std::string SizeWords(uint64_t memory_mb, uint32_t cpus);

// The machine document of a completed specification on this host. `guest_cid` is 0 for a guest link
// over virtio-serial.
schema::ComputeSystem BuildDocument(const v1::VmSpec& spec, const HostSettings& host,
                                    const BackendInfo& backend, uint32_t guest_cid);

}  // namespace ferry::vm
