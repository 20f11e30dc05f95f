#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/schema/compute_system.h"

namespace ferry::vm {

// The host's end of a card: a tap device.
struct Tap {
  UniqueFd fd;    // whoever has it open has the other end; without anybody it goes
  int index = 0;  // the kernel's number of it
};

// The networks of a host, as its VMs' cards see them. A card on the VMM's own user-mode network
// needs nothing of them. Thread: the executor's only.
class HostNetwork {
 public:
  virtual ~HostNetwork() = default;

  // Whether the card could be plugged in now. FAILED_PRECONDITION says why not and what to do;
  // nothing stays of the attempt.
  virtual Task<absl::Status> Check(schema::NetworkAdapter card) = 0;

  // Makes its tap and joins it to its bridge, or opens the user's own. It carries nothing until
  // Carry().
  virtual Task<absl::StatusOr<Tap>> Open(schema::NetworkAdapter card) = 0;

  // Lets taps carry. An error names the first that does not; the others do.
  virtual Task<absl::Status> Carry(std::vector<int> taps) = 0;
  // Lets them carry nothing any more, and nobody waits for it: it comes before every Carry() that
  // is asked for later.
  virtual void Silence(std::vector<int> taps) = 0;
};

}  // namespace ferry::vm
