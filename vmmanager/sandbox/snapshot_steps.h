#pragma once

#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "ferry/state/v1/snapshot.pb.h"

// What a VM and whoever keeps its containers (vmmanager/saving) do together for a snapshot.
namespace ferry::vm {

struct TakingSteps {
  // The guest stands still, and nothing is taken from it: what its containers are. An error calls
  // it off.
  std::function<absl::StatusOr<std::vector<state::v1::ContainerRecord>>()> containers;
};

struct GoingBackSteps {
  // Before anything is done: whether the containers of then are those that there are now.
  std::function<absl::Status(const state::v1::SnapshotRecord&)> check;
  // Memory and disks are those of then, and nothing has run: the containers go on as they were.
  std::function<Task<absl::Status>(state::v1::SnapshotRecord)> before_run;
};

}  // namespace ferry::vm
