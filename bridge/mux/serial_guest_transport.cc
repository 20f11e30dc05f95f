#include "bridge/mux/serial_guest_transport.h"

#include <utility>

#include "bridge/mux/mux_link.h"

namespace ferry::bridge {

SerialGuestTransport::SerialGuestTransport(Executor executor, UniqueFd port)
    : link_(std::make_shared<MuxLink>(std::move(executor), MuxRole::kGuest)) {
  link_->Attach(std::move(port));
}

SerialGuestTransport::~SerialGuestTransport() { link_->Shutdown(); }

Task<absl::StatusOr<std::unique_ptr<Connection>>> SerialGuestTransport::Dial(uint32_t port) {
  return link_->Dial(port);
}

Task<uint64_t> SerialGuestTransport::WaitForLink(uint64_t seen) { return link_->WaitForLink(seen); }

uint64_t SerialGuestTransport::links() const { return link_->links(); }

void SerialGuestTransport::Close() { link_->Shutdown(); }

}  // namespace ferry::bridge
