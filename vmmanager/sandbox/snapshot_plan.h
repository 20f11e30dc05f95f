#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ferry/state/v1/snapshot.pb.h"
#include "ferry/v1/snapshot.pb.h"
#include "vmmanager/backend/snapshots.h"
#include "vmmanager/schema/compute_system.h"

// Which disks a snapshot is of, by the names that users give them. Without I/O.
namespace ferry::vm {

struct SnapshotWish {
  std::string tag;
  std::vector<std::string> devices;
  std::string vmstate;
  bool live = false;
};

// A machine's disks as its user names them: one of the VM's own by its name in the VM's
// specification, a container's scratch disk by the container's id (its first 16 digits here).
struct NamedDisk {
  DiskPlace place;
  schema::Attachment disk;
  bool writable() const { return !disk.read_only; }
  bool can_hold_snapshots() const { return writable() && disk.format == "qcow2"; }
};
using NamedDisks = std::map<std::string, NamedDisk>;
NamedDisks DisksByName(const schema::ComputeSystem& document);

// INVALID_ARGUMENT "bad_tag" unless both we and QEMU's tools can tell it from anything else:
// letters, digits, '.', '_' and '-', at most 64, the first a letter or digit; not digits alone,
// which qemu-img takes for an id.
absl::Status CheckTag(const std::string& tag);

// Which disks are meant; an error says why a snapshot like that cannot be, and what to do.
absl::StatusOr<SnapshotOptions> PlanSnapshot(const std::string& vm_name, const NamedDisks& disks,
                                             const SnapshotWish& wish);

// What a record says of its disks, for the backend.
SnapshotOptions OptionsOf(const std::string& tag, const state::v1::SnapshotRecord& record);

// FAILED_PRECONDITION "machine_changed", naming a disk that came or went, unless the machine is the
// one that the snapshot was taken of.
absl::Status CheckSameMachine(const std::string& vm_name, const std::string& tag,
                              const state::v1::SnapshotRecord& record,
                              const schema::ComputeSystem& now);

// Why one cannot be loaded whose record has no stage that is known here.
inline constexpr char kOfANewer[] = "its record cannot be read, or is of a newer ferryd";

using SnapshotRecords = std::map<std::string, state::v1::SnapshotRecord>;  // by tag

// All tags that a disk or a record knows, the oldest first. `present` is empty, and `is_up` false,
// where the disks could not be asked.
std::vector<v1::Snapshot> DescribeSnapshots(const SnapshotRecords& records,
                                            const std::vector<DiskSnapshots>& present,
                                            const NamedDisks& disks, bool is_up);

}  // namespace ferry::vm
