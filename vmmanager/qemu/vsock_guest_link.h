#pragma once

#include <memory>

#include "bridge/transport/vsock.h"
#include "vmmanager/qemu/guest_link.h"

namespace ferry::vm {

// The guest link over the kernel's AF_VSOCK; QEMU has no part in its connections.
class VsockGuestLink : public GuestLink {
 public:
  explicit VsockGuestLink(std::unique_ptr<bridge::HostTransport> transport)
      : transport_(std::move(transport)) {}
  bridge::HostTransport& transport() override { return *transport_; }
  void Attach(UniqueFd) override {}

 private:
  std::unique_ptr<bridge::HostTransport> transport_;
};

}  // namespace ferry::vm
