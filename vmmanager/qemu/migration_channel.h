#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "vmmanager/backend/compute_system.h"
#include "vmmanager/qemu/qemu_machine.h"

namespace ferry::vm {

// Opens the source's way to the endpoint and returns the address at which QEMU finds it. A stream
// of one channel gets a connected socket that takes more at once than QEMU's own would, so that
// QEMU and whoever reads wake each other less often; QEMU opens those of several channels itself,
// for it takes no descriptors for them.
Task<absl::StatusOr<std::string>> OpenMigrationChannel(QemuMachine* machine,
                                                       MigrationEndpoint endpoint,
                                                       bool several_channels);

}  // namespace ferry::vm
