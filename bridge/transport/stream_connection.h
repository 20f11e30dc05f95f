#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/task.h"
#include "bridge/runtime/unique_fd.h"
#include "bridge/transport/transport.h"

namespace ferry::bridge {

// Holds back the reads of all connections that share it, without breaking anything.
class ReadGate {
 public:
  explicit ReadGate(Executor executor) : open_(std::move(executor)) { open_.Set(); }

  void Pause() { open_.Reset(); }
  void Resume() { open_.Set(); }
  bool paused() const { return !open_.is_set(); }
  Task<void> WaitOpen() { return open_.Wait(); }

 private:
  AsyncEvent open_;
};

// The socket of a StreamSocketConnection. Shared, so that whoever owns the link can close its
// connections wherever they have gone.
class StreamSocket;
void CloseStreamSocket(StreamSocket& socket);

// A Connection over a connected stream socket (Unix, TCP, vsock), which it makes non-blocking.
class StreamSocketConnection final : public Connection {
 public:
  // `gate` may be null: then reads are never held back.
  StreamSocketConnection(Executor executor, UniqueFd socket,
                         std::shared_ptr<ReadGate> gate = nullptr);
  ~StreamSocketConnection() override;

  Task<absl::StatusOr<size_t>> Read(std::span<char> buffer) override;
  Task<absl::Status> Write(std::string_view data) override;
  Task<absl::Status> CloseWrite() override;
  void Close() override;

  const std::shared_ptr<StreamSocket>& socket() const { return socket_; }

 private:
  std::shared_ptr<StreamSocket> socket_;
};

}  // namespace ferry::bridge
