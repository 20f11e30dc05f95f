#pragma once

#include "bridge/runtime/async.h"
#include "bridge/transport/transport.h"

namespace ferry::guest {

// What all tasks that talk to one guest share: its transport, whether anything may move now, what
// the agent can do, and whether the guest knows the time. Tasks hold it by shared_ptr, because they
// may outlive the guest.
struct LinkGate {
  LinkGate(Executor e, bridge::HostTransport& t)
      : executor(e), transport(t), open(e), capabilities_known(e), clock_set(e) {
    open.Set();
  }

  Executor executor;
  bridge::HostTransport& transport;
  AsyncEvent open;                // reset while the guest is frozen
  AsyncEvent capabilities_known;  // set for good: negotiated, or restored
  AsyncEvent clock_set;  // reset while the guest's clock may be wrong: no process is told anything
  bool resumable_stdio = false;
  // Added to what the agent calls the generation of a stream, for clients; see BeginTimeline.
  uint32_t timeline = 0;
};

}  // namespace ferry::guest
