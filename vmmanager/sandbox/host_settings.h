#pragma once

#include <string>

#include "bridge/runtime/async.h"

namespace ferry::vm {

// What a host's administrator decides for all its VMs.
struct HostSettings {
  std::string advertised_address;  // where clients and peers reach this daemon
  std::string kernel;              // the default guest image
  std::string initrd;
  std::string kernel_args;             // appended to every VM's command line
  bool use_vsock = false;              // AF_VSOCK instead of the virtio-serial multiplexer
  milliseconds boot_timeout{180'000};  // until the agent is ready; generous, because TCG is slow
};

}  // namespace ferry::vm
