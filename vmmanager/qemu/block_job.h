#pragma once

#include <boost/json/object.hpp>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "vmmanager/backend/overlays.h"

namespace ferry::vm {

class QemuMachine;

// A job of QEMU's that gives another file the content of a disk's topmost one, also of what its
// guest goes on writing, until it is told to let the device go on in that: block-commit into the
// file below, or blockdev-mirror.
struct SwitchJob {
  std::string id;
  std::string command;
  boost::json::object arguments;                        // without the id
  std::string what;                                     // for messages, as in "could not ..."
  std::function<Task<absl::Status>()> ready = nullptr;  // see DiskTarget
  PlaceDiskFile place;                                  // see ComputeSystem::MergeOverlay
  MergeProgress progress = nullptr;
};

// QEMU's job block-commit of a file further below; nothing has to stand still for that.
struct LowerCommitJob {
  std::string id;
  std::string node;  // the topmost
  std::string top;   // what is merged, and what it is merged into, as QEMU calls them
  std::string base;
  std::string below;  // that one's path, for the file over `top` to be kept
  MergeProgress progress = nullptr;
};

// Begins the job, or takes over the one of that id, which has not ended, and returns when it has:
// the device is on the other file then, or after an error on what it was. QEMU keeps the job until
// DismissJob(); after an error it is gone.
Task<absl::Status> RunSwitchJob(std::shared_ptr<QemuMachine> machine, SwitchJob job);

// Returns when the job has ended, and is gone. After an error the chain may have changed all the
// same, with the old one still written in the file above.
Task<absl::Status> RunLowerCommitJob(std::shared_ptr<QemuMachine> machine, LowerCommitJob job);

// Ends the job of that id, if a daemon left one that died, or a call that got no answer: from then
// on it is known which file the device is on.
Task<absl::Status> EndLeftJob(std::shared_ptr<QemuMachine> machine, std::string id);

// What QEMU's text for a failed job means; `what` is as SwitchJob has it.
absl::Status BlockJobError(const std::string& what, const std::string& text);

}  // namespace ferry::vm
