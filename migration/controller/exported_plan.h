#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "migration/controller/controller_deps.h"
#include "vmmanager/sandbox/disk_marks.h"
#include "vmmanager/sandbox/utility_vm.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::migration {

// INVALID_ARGUMENT unless it is one.
absl::Status CheckCopyStorage(v1::CopyStorage storage);

// What a plan says of a VM of this host, but for its compatibility information. The destination
// tells the VM's disks by `marks`, for as long as those live. `deps` and `marks` must outlive the
// task.
Task<absl::StatusOr<vm::PlanState>> DescribeForExport(const ControllerDeps& deps,
                                                      std::shared_ptr<vm::UtilityVm> machine,
                                                      std::string session_id,
                                                      v1::CopyStorage storage,
                                                      std::vector<vm::DiskMark>* marks);

}  // namespace ferry::migration
