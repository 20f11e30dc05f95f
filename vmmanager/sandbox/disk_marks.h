#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/blocking_worker.h"
#include "bridge/runtime/task.h"
#include "bridge/runtime/unique_fd.h"
#include "ferry/state/v1/saved_state.pb.h"
#include "ferry/v1/vm.pb.h"
#include "vmmanager/sandbox/fingerprint.h"

// How two hosts find out whether they have the same disk, and not only one of the same name and
// size. The source locks a byte of its file, which lies far behind its end and which nobody can
// guess, and the destination looks whether that byte is locked: so it does on all storage on which
// QEMU's own image locks work between hosts. A block device has no locks that others see, and what
// lies below an overlay is not looked at.
namespace ferry::vm {

// Ends with the object, and with this process.
struct DiskMark {
  DiskMark(std::string its_word, UniqueFd its_file)
      : word(std::move(its_word)), file(std::move(its_file)) {}
  ~DiskMark();
  DiskMark(DiskMark&&) = default;
  DiskMark& operator=(DiskMark&&) = default;

  std::string word;                        // for the other host
  UniqueFd file;                           // holds the lock
  std::shared_ptr<BlockingWorker> worker;  // on which it is given up, if there is one
};

// Blocking. FAILED_PRECONDITION if it is neither a file nor a block device, UNIMPLEMENTED if it is
// the latter; or why it cannot be marked.
absl::StatusOr<DiskMark> MarkDisk(const std::string& path);
// Blocking. Whether the disk at `path` is the one of which another host says this word.
absl::StatusOr<bool> HasMark(const std::string& path, const std::string& word);

// Marks the VM's own disks in `disks`, as far as they can be: those that are only read may also be
// told by their content. What is returned has to live until the other host has looked. The
// arguments must outlive the task.
Task<std::vector<DiskMark>> MarkDisks(
    v1::VmSpec spec, google::protobuf::RepeatedPtrField<state::v1::DiskPayload>* disks,
    ImageDigests* digests);
// Why the disk at `path` is not the one that is described; empty if it is, or if its host says
// nothing of that.
Task<absl::StatusOr<std::string>> WhyOtherDisk(state::v1::DiskPayload disk, std::string path,
                                               ImageDigests* digests);

}  // namespace ferry::vm
