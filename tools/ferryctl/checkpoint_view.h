#pragma once

#include <string>

#include "ferry/v1/checkpoint.pb.h"

// How checkpoints look.
namespace ferry::ctl {

// A line for each, in the order of the response.
std::string CheckpointTable(const v1::ListCheckpointsResponse& response);

// Each under the one that it was taken after; the one after which VM `vm` goes on is marked.
std::string CheckpointTree(const std::string& vm, const v1::ListCheckpointsResponse& response);

// "checkpoint before-upgrade of VM web: memory and 2 disks, stood still for 14 ms", and what
// `request` has made of the VM.
std::string TakenCheckpointLine(const v1::CreateCheckpointRequest& request,
                                const v1::Checkpoint& checkpoint);

// "web went back to checkpoint before-upgrade of 2026-01-31T12:00:00Z", and what the VM is now
// unless it runs.
std::string RevertedCheckpointLine(const v1::RevertToCheckpointRequest& request,
                                   const v1::Checkpoint& checkpoint);

// "checkpoint before-upgrade of VM web defined: memory and 2 disks".
std::string DefinedCheckpointLine(const std::string& vm, const v1::Checkpoint& checkpoint);

// "VM web-2 was made of checkpoint before-upgrade of VM web", and what its start does.
std::string ClonedVmLine(const v1::RestoreCheckpointAsRequest& request, const v1::Vm& vm);

}  // namespace ferry::ctl
