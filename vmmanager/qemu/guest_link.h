#pragma once

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "bridge/runtime/unique_fd.h"
#include "bridge/transport/transport.h"

namespace ferry::vm {

// The host's transport to one guest, and how a QEMU's virtio-serial port is plugged into it.
class GuestLink {
 public:
  virtual ~GuestLink() = default;
  virtual bridge::HostTransport& transport() = 0;

  // Takes the connected stream of the guest's port; not called for guests with a CID.
  virtual void Attach(UniqueFd stream) = 0;
};

// Makes the link of one guest; `guest_cid` 0 means the virtio-serial port. It is the daemon that
// knows how: vsock's listeners are shared by all its guests.
using GuestLinkFactory =
    std::function<std::unique_ptr<GuestLink>(Executor executor, uint32_t guest_cid)>;

}  // namespace ferry::vm
