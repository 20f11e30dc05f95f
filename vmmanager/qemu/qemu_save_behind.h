#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/schema/compute_system.h"
#include "vmmanager/schema/migration.h"

namespace ferry::vm {

class QemuMachine;

// ComputeSystem::SaveBehind(). While it lasts QEMU may answer late: it can wait for a page of
// memory that has yet to be written. If this process dies meanwhile the next one lets QEMU come to
// the end of it (QemuMachine::OpenStatePipe).
Task<absl::Status> SaveQemuBehind(std::shared_ptr<QemuMachine> machine, schema::SaveOptions options,
                                  UniqueFd stream, std::function<void()> on_running);

// Of an adopted QEMU: returns when it is not at such a thing any more, which nobody takes.
Task<absl::Status> AwaitQemuBehind(std::shared_ptr<QemuMachine> machine);

}  // namespace ferry::vm
