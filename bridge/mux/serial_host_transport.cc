#include "bridge/mux/serial_host_transport.h"

#include <utility>

#include "bridge/mux/mux_link.h"

namespace ferry::bridge {

SerialHostTransport::SerialHostTransport(Executor executor)
    : link_(std::make_shared<MuxLink>(std::move(executor), MuxRole::kHost)) {}

SerialHostTransport::~SerialHostTransport() { link_->Shutdown(); }

void SerialHostTransport::AttachLink(UniqueFd stream) { link_->Attach(std::move(stream)); }

void SerialHostTransport::DetachLink() { link_->Detach(); }

void SerialHostTransport::set_on_link_lost(std::function<void()> callback) {
  link_->set_on_link_lost(std::move(callback));
}

bool SerialHostTransport::established() const { return link_->established(); }

absl::StatusOr<std::unique_ptr<Listener>> SerialHostTransport::Listen(uint32_t port) {
  return link_->Listen(port);
}

void SerialHostTransport::PauseReading() { link_->Pause(); }

void SerialHostTransport::ResumeReading() { link_->Resume(); }

void SerialHostTransport::Close() { link_->Shutdown(); }

}  // namespace ferry::bridge
