#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "bridge/runtime/async.h"

namespace ferry::vm {

class QemuMachine;

// Sees to it that QEMU may write to these block nodes. A machine whose whole state was written to a
// stream, or that came from one and has not run since, has its images closed until it runs;
// QEMU 7.2 refuses to merge them then ("Block node is read-only"), and aborts if a file is put on
// top of them. Only for a machine that may run here.
Task<absl::Status> OpenImages(QemuMachine* machine, std::vector<std::string> nodes);

}  // namespace ferry::vm
