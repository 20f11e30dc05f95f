#include "guestmanager/port_allocator.h"

#include <limits>

namespace ferry::guest {
namespace {

// VMADDR_PORT_ANY is no port.
constexpr uint32_t kLastPort = std::numeric_limits<uint32_t>::max() - 1;

}  // namespace

absl::StatusOr<uint32_t> PortAllocator::Allocate() {
  if (next_ == 0) {
    return absl::ResourceExhaustedError(
        "this guest has used up its stdio ports; restart the VM to start over");
  }
  const uint32_t port = next_;
  next_ = port == kLastPort ? 0 : port + 1;
  return port;
}

void PortAllocator::SetNextPort(uint32_t next) {
  if (next == 0 || next_ == 0) return;
  if (next > kLastPort) {
    next_ = 0;
  } else if (next > next_) {
    next_ = next;
  }
}

}  // namespace ferry::guest
