#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"

namespace ferry::vm {

class QemuMachine;

// What QEMU says of a job.
struct JobReport {
  bool present = false;  // whether it has one of that id
  std::string state;
  std::string error;
};

Task<absl::StatusOr<JobReport>> AskForJob(QemuMachine* machine, std::string id);
// Of one that has concluded.
Task<absl::Status> DismissJob(QemuMachine* machine, std::string id);

}  // namespace ferry::vm
