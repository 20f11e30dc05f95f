#pragma once

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "vmmanager/sandbox/sandbox_deps.h"
#include "vmmanager/schema/compute_system.h"

namespace ferry::vm {

// What one VM's UEFI firmware remembers; of a VM without such firmware there is nothing, and
// nothing is done. While the VM runs its VMM writes that to the store, and a VMM that has taken a
// state writes all of that state's once the guest runs. So this is for the VMs that do not get that
// far, and for those that boot.
//
// It must outlive its tasks. Thread: the executor's only.
class VmFirmware {
 public:
  // Of the document as it is at each call. Both must outlive it.
  VmFirmware(const SandboxDeps& deps, const schema::ComputeSystem& document)
      : deps_(deps), document_(document) {}

  // What is in the store, packed.
  Task<absl::StatusOr<std::string>> Read();
  // Makes the store of a new VM, of what is packed; with nothing in `packed` an empty one.
  Task<absl::Status> Make(std::string packed);
  // Puts that in its place while no VMM has it open. With nothing in `packed` it stays.
  Task<absl::Status> Put(std::string packed);
  // Makes it only if it is lost.
  Task<absl::Status> Ensure(std::string packed);
  // Puts that into it while its VMM has it open and its guest stands still. The log says it if that
  // fails.
  Task<void> Rewrite(std::string packed);

  // What an arriving VM's is to begin with, until it is put in its place.
  void Expect(std::string packed) { arriving_ = std::move(packed); }
  Task<absl::Status> PutExpected();

 private:
  const SandboxDeps& deps_;
  const schema::ComputeSystem& document_;
  std::string arriving_;
};

}  // namespace ferry::vm
