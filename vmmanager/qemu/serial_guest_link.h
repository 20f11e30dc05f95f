#pragma once

#include "bridge/mux/serial_host_transport.h"
#include "vmmanager/qemu/guest_link.h"

namespace ferry::vm {

// The guest link over QEMU's virtio-serial port.
class SerialGuestLink : public GuestLink {
 public:
  explicit SerialGuestLink(Executor executor) : transport_(std::move(executor)) {}
  bridge::HostTransport& transport() override { return transport_; }
  void Attach(UniqueFd stream) override { transport_.AttachLink(std::move(stream)); }

 private:
  bridge::SerialHostTransport transport_;
};

}  // namespace ferry::vm
