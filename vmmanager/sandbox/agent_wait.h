#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "vmmanager/sandbox/utility_vm.h"

namespace ferry::vm {

// DEADLINE_EXCEEDED "agent_away": `what` ails the VM's agent.
absl::Status AgentAway(const UtilityVm& vm, const std::string& what);

// The VM's guest, once its agent can be asked for something. As UsableGuest; FAILED_PRECONDITION
// while the VM is paused, DEADLINE_EXCEEDED if the agent does not come back within `limit`.
Task<absl::StatusOr<std::shared_ptr<guest::Guest>>> ReadyGuest(std::shared_ptr<UtilityVm> vm,
                                                               milliseconds limit);

}  // namespace ferry::vm
