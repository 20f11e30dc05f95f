#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "migration/controller/controller_deps.h"
#include "vmmanager/sandbox/utility_vm.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::migration {

// What a plan says of a VM of this host, but for its compatibility information. `deps` must outlive
// the task.
Task<absl::StatusOr<vm::PlanState>> DescribeForExport(const ControllerDeps& deps,
                                                      std::shared_ptr<vm::UtilityVm> machine,
                                                      std::string session_id);

}  // namespace ferry::migration
