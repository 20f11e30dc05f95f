#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/unique_fd.h"
#include "ferry/state/v1/checkpoint.pb.h"
#include "ferry/state/v1/saved_state.pb.h"
#include "guestmanager/guest.h"
#include "vmmanager/schema/compute_system.h"

// What a VM and whoever keeps its containers and files (vmmanager/saving) do together for a
// checkpoint.
namespace ferry::vm {

// Where the scratch disks of a VM's containers are, which their records say.
class ScratchPlaces {
 public:
  virtual ~ScratchPlaces() = default;
  // Empty if there is no such container any more.
  virtual std::string FileOf(const std::string& container_id) const = 0;
  // Of a disk in a file: the container whose it is. Empty: no container's.
  virtual std::string OwnerOf(const std::string& vm_id, const std::string& file) const = 0;
  // Durable when it returns; else nothing has changed. Fine if there is no such container any more.
  virtual Task<absl::Status> Put(std::string container_id, std::string file) = 0;
};

struct CheckpointSteps {
  std::shared_ptr<bool> recorded;  // set to true once its overlays are the VM's to care for
  // Set to true if that may be written down although it failed: then the overlays have to stay.
  std::shared_ptr<bool> in_doubt;
  bool memory = false;
  bool live = false;
  bool halt = false;
  bool paused = false;  // afterwards
  bool quiesce = false;
  // If set, nothing of it is remembered once it was taken, and what would have been is put here.
  std::shared_ptr<state::v1::CheckpointRecord> forgotten;
  // With memory: the guest stands still, and nothing is taken from it any more. Writes down all but
  // its memory, and returns where that goes.
  std::function<Task<absl::StatusOr<UniqueFd>>(guest::GuestState)> begin;
  // With memory: all of it went there. Makes the file whole, and writes into the record what is to
  // be remembered of it.
  std::function<Task<absl::Status>(state::v1::CheckpointRecord*)> seal;
  // With memory: called off, nothing of the file stays. Returns the first cause that is known.
  std::function<Task<absl::Status>(absl::Status cause)> discard;
};

// Whether a checkpoint's files may be written to.
using MergeCheck = std::function<Task<absl::Status>()>;

// How a VM goes back.
struct CheckpointReturn {
  struct Disk {
    std::string below;    // the checkpoint's file
    std::string overlay;  // new, and over that
  };
  std::map<std::string, Disk> disks;     // by the disk's name
  std::optional<schema::Topology> size;  // of the machine that its memory is of, if it has any
  // Set to true if it may be written down although it failed: then the overlays have to stay.
  std::shared_ptr<bool> in_doubt;
};

}  // namespace ferry::vm
