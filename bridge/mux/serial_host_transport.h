#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "bridge/runtime/unique_fd.h"
#include "bridge/transport/transport.h"

namespace ferry::bridge {

class MuxLink;

// The host's end of a guest link that is multiplexed over one virtio-serial port. It may be made,
// and listened on, before there is a stream; listeners outlive the streams.
class SerialHostTransport final : public HostTransport {
 public:
  explicit SerialHostTransport(Executor executor);
  ~SerialHostTransport() override;

  // Takes the connected stream socket of the port (it is made non-blocking) and starts a new epoch
  // on it. A former stream is closed and its connections fail with UNAVAILABLE. The guest may be
  // stopped, or not have opened its port: it gets the hello first thing when it reads.
  void AttachLink(UniqueFd stream);

  // Closes the stream, if there is one; connections fail with UNAVAILABLE, listeners stay.
  void DetachLink();

  // Called when the stream ends by itself (not on AttachLink, DetachLink or Close). It may attach
  // another one.
  void set_on_link_lost(std::function<void()> callback);

  // Whether the guest has answered the present epoch's hello.
  bool established() const;

  absl::StatusOr<std::unique_ptr<Listener>> Listen(uint32_t port) override;
  void PauseReading() override;
  void ResumeReading() override;
  void Close() override;

 private:
  std::shared_ptr<MuxLink> link_;
};

}  // namespace ferry::bridge
