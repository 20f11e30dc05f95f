#pragma once

#include <memory>

#include "bridge/runtime/task.h"
#include "bridge/transport/transport.h"

namespace ferry::bridge {

// Stands in for an agent and its processes where only the host is to be measured: a process that it
// is to execute as `... BYTES` has printed so many bytes of text already, and ended. It speaks as
// the agent does, in frames of the same size and within the same window, but has no pipes and keeps
// nothing.
class OutputFeeder {
 public:
  // Dials as soon as the host is there. `transport` must outlive the executor's tasks.
  OutputFeeder(Executor executor, GuestTransport& transport);
  ~OutputFeeder();

 private:
  class Bridge;
  const std::shared_ptr<Bridge> bridge_;
};

}  // namespace ferry::bridge
