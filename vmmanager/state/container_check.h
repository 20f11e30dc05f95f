#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "ferry/state/v1/saved_state.pb.h"
#include "vmmanager/schema/compute_system.h"

// What must hold for the containers in a saved state. INVALID_ARGUMENT names what does not.
namespace ferry::vm {

// By which its guest knows a container, whatever the id that its host knows it by.
const std::string& GuestIdOf(const state::v1::ContainerRecord& record);

// Their records are whole, and each of their disks is one of the machine's, for what it says.
absl::Status CheckContainers(const state::v1::VmPayload& vm, const schema::ComputeSystem& document);

// The cut has the plan's containers, and they consist of what the plan said.
absl::Status CheckSameContainers(const state::v1::VmPayload& plan,
                                 const std::vector<state::v1::ContainerRecord>& cut);

}  // namespace ferry::vm
