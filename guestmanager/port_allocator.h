#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "bridge/transport/transport.h"

namespace ferry::guest {

// Hands out stdio ports, each once, from 0x40000001 up. The floor travels with a migration so that
// a destination never reuses a port that the guest may still dial.
class PortAllocator {
 public:
  // RESOURCE_EXHAUSTED at the end of the range; there is no wrap.
  absl::StatusOr<uint32_t> Allocate();

  // The next unused port, 0 when there is none left.
  uint32_t NextPort() const { return next_; }

  // Only ever raises; 0 says nothing.
  void SetNextPort(uint32_t next);

 private:
  uint32_t next_ = bridge::kFirstStdioPort;  // 0: the range is used up
};

}  // namespace ferry::guest
