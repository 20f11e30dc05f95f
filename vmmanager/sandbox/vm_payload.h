#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "ferry/state/v1/saved_state.pb.h"
#include "vmmanager/sandbox/fingerprint.h"
#include "vmmanager/sandbox/utility_vm.h"

namespace ferry::vm {

// What a VM of this host is, for another host or another time; but for its containers and its
// compatibility information. The references must outlive the task.
Task<absl::StatusOr<state::v1::VmPayload>> DescribeVm(std::shared_ptr<UtilityVm> vm,
                                                      const Backend& backend,
                                                      ImageDigests& digests);

}  // namespace ferry::vm
