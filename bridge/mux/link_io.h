#pragma once

#include <boost/asio/posix/stream_descriptor.hpp>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::bridge {

// What a LinkIo carries bytes for.
class LinkIoHandler {
 public:
  virtual ~LinkIoHandler() = default;
  virtual void OnBytes(std::string_view bytes) = 0;
  virtual bool WantsInput() const = 0;
  virtual std::string_view Output() const = 0;
  virtual void OnWritten(size_t size) = 0;
  // The other side is not there (any more). On a virtio port it may come again.
  virtual void OnEnd() = 0;
};

// Reads and writes one stream: a socket, or a virtio-serial port's character device.
//
// A virtio port without a host reports "hung up" for as long as that lasts, which a level-triggered
// wait, and Asio's too, would turn into a busy loop. So the descriptor sits edge-triggered in an
// epoll set of its own, and it is that set that Asio waits for.
class LinkIo : public std::enable_shared_from_this<LinkIo> {
 public:
  // `handler` must live until Close().
  static absl::StatusOr<std::shared_ptr<LinkIo>> Open(Executor executor, UniqueFd fd,
                                                      LinkIoHandler* handler);
  LinkIo(Executor executor, UniqueFd fd, UniqueFd epoll, LinkIoHandler* handler);

  // There is output, or room for input: continues from the event loop, so that what is written at
  // one time goes out in one piece.
  void Kick();

  // Neither reads nor writes until resumed; nothing is lost.
  void Pause() { paused_ = true; }
  void Resume();

  void Close();

 private:
  void WaitForEdge();
  void Pump();
  void WriteOutput();
  void ReadInput();

  Executor executor_;
  UniqueFd fd_;
  asio::posix::stream_descriptor edges_;
  LinkIoHandler* handler_;  // null once closed
  std::vector<char> buffer_;
  const bool is_socket_;
  bool readable_ = true;  // as far as is known: no call has said EAGAIN since the last edge
  bool writable_ = true;
  bool paused_ = false;
  bool scheduled_ = false;
};

}  // namespace ferry::bridge
