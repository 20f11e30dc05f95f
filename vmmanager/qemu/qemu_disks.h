#pragma once

#include <memory>

#include "vmmanager/qemu/qemu_machine.h"

namespace ferry::vm {

// Adds or removes a SCSI disk of a running machine, at the resource path
// VirtualMachine/Devices/Scsi/CONTROLLER/Attachments/LUN. UNIMPLEMENTED names any other resource.
Task<absl::Status> ModifyDisks(std::shared_ptr<QemuMachine> machine,
                               schema::ModifySettingRequest request);

// Writes a paused machine's whole state into a stream that somebody else reads.
Task<absl::Status> SaveToStream(std::shared_ptr<QemuMachine> machine, schema::SaveOptions options,
                                UniqueFd stream);

}  // namespace ferry::vm
