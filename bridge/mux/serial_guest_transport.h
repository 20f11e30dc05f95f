#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "bridge/runtime/unique_fd.h"
#include "bridge/transport/transport.h"

namespace ferry::bridge {

class MuxLink;

// The guest's end of a link that is multiplexed over one virtio-serial port. The port stays open
// for the transport's life; hosts come and go behind it.
class SerialGuestTransport final : public GuestTransport {
 public:
  // `port` is the open character device (or a stream socket); it is made non-blocking.
  SerialGuestTransport(Executor executor, UniqueFd port);
  ~SerialGuestTransport() override;

  Task<absl::StatusOr<std::unique_ptr<Connection>>> Dial(uint32_t port) override;
  Task<uint64_t> WaitForLink(uint64_t seen) override;
  uint64_t links() const override;

  // Resets all connections and closes the port. Idempotent.
  void Close();

 private:
  std::shared_ptr<MuxLink> link_;
};

}  // namespace ferry::bridge
