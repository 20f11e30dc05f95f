#pragma once

#include "bridge/runtime/async.h"
#include "bridge/transport/transport.h"

namespace ferry::guest {

// What all tasks that talk to one guest share: its transport, whether anything may move now, and
// what the agent can do. Tasks hold it by shared_ptr, because they may outlive the guest.
struct LinkGate {
  LinkGate(Executor e, bridge::HostTransport& t)
      : executor(e), transport(t), open(e), capabilities_known(e) {
    open.Set();
  }

  Executor executor;
  bridge::HostTransport& transport;
  AsyncEvent open;                // reset while the guest is frozen
  AsyncEvent capabilities_known;  // set for good: negotiated, or restored
  bool resumable_stdio = false;
};

}  // namespace ferry::guest
