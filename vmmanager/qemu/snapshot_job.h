#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "bridge/runtime/async.h"

namespace ferry::vm {

class QemuMachine;

// One of QEMU's jobs snapshot-save, -load and -delete, in QEMU's own words.
struct SnapshotJob {
  enum class Kind { kSave, kLoad, kDelete };
  Kind kind = Kind::kSave;
  std::string tag;
  std::string vm_state;            // a node's name; not for kDelete
  std::vector<std::string> nodes;  // the disks' nodes
  std::string id = "ferry-snapshot";
};

struct SnapshotJobEnd {
  // An error carries what QEMU said of the job, and what it wrote to its standard error meanwhile.
  absl::Status status;
  // The states of the job in order, as QEMU told them, with STOP and RESUME of the guest between.
  std::vector<std::string> course;
};

// How long a job may take: QEMU writes or reads all of the memory, at worst on a slow disk.
milliseconds SnapshotDeadline(uint64_t memory_mb);

// Runs the job to its end and dismisses it, also when it failed. QEMU does the work in its main
// loop: its monitor is silent meanwhile and the guest stands still; there is no progress, and a
// cancellation would be heard only when the job is over.
Task<SnapshotJobEnd> RunSnapshotJob(std::shared_ptr<QemuMachine> machine, SnapshotJob job);

// What QEMU's text for a failed job means. `words`: what it wrote meanwhile; may be empty.
absl::Status SnapshotJobError(SnapshotJob::Kind kind, const std::string& tag,
                              const std::string& text, const std::string& words);

}  // namespace ferry::vm
