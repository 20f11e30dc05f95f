#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "ferry/state/v1/saved_state.pb.h"
#include "vmmanager/backend/compute_system.h"
#include "vmmanager/sandbox/file_reads.h"
#include "vmmanager/schema/compute_system.h"

namespace ferry::vm {

// SHA-256 of guest image files, remembered until a file changes. Hashing takes some 50 ms per image
// the first time. Paths may come from peers, so only regular files of a bounded size are read, and
// few are remembered.
class ImageDigests {
 public:
  // `reads` must outlive it.
  explicit ImageDigests(FileReads& reads) : reads_(reads) {}

  Task<absl::StatusOr<std::string>> Get(std::string path);

  static constexpr size_t kMaxKnown = 64;
  size_t known() const { return known_.size(); }
  FileReads& reads() const { return reads_; }

 private:
  struct Known {
    uint64_t size = 0;
    uint64_t inode = 0;
    int64_t changed_ns = 0;
    std::string sha256;
  };
  static absl::StatusOr<Known> Look(const std::string& path, const Known& known);

  FileReads& reads_;
  std::map<std::string, Known> known_;
};

// What the two hosts of a migration must agree on for this machine, but for its guest image.
state::v1::Fingerprint DescribeMachine(const schema::ComputeSystem& document,
                                       const BackendInfo& backend);

// The same with the guest image, whose files must be readable. The arguments must outlive the task.
Task<absl::StatusOr<state::v1::Fingerprint>> MakeFingerprint(const schema::ComputeSystem& document,
                                                             const BackendInfo& backend,
                                                             ImageDigests& digests);

// How a fingerprint names a disk.
std::string DiskLine(const std::string& controller, const std::string& lun,
                     const schema::Attachment& disk);
// The same for a network card, and for where that is plugged in alone.
std::string AdapterLine(const std::string& number, const schema::NetworkAdapter& adapter);
std::string AdapterPlace(const schema::NetworkAdapter& adapter);

}  // namespace ferry::vm
