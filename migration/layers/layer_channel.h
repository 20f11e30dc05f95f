#pragma once

#include <boost/asio/local/stream_protocol.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"

namespace ferry::migration {

// How much of a layer is read, sent and written at once, in bytes, and how long its disk may take
// for that.
inline constexpr size_t kLayerPiece = 1024 * 1024;
inline constexpr milliseconds kLayerDiskTime{60'000};

// Our own end of a channel of a session connection. Thread: the executor's.
class LayerChannel {
 public:
  using Socket = asio::local::stream_protocol::socket;

  explicit LayerChannel(Executor executor) : socket_(std::move(executor)) {}
  explicit LayerChannel(Socket socket) : socket_(std::move(socket)) {}

  Task<absl::Status> Connect(std::string path);
  // UNAVAILABLE if the channel has broken, as for the others.
  Task<absl::Status> Write(std::string bytes);
  void EndWriting();
  // Up to `max` bytes; none at the end of the peer's half.
  Task<absl::StatusOr<std::string>> ReadSome(size_t max);
  // Exactly `size` bytes. DATA_LOSS if the peer's half ends before.
  Task<absl::StatusOr<std::string>> ReadExactly(size_t size);
  // All up to the end. INVALID_ARGUMENT if that is more than `max` bytes.
  Task<absl::StatusOr<std::string>> ReadToEnd(size_t max);

 private:
  Socket socket_;
};

}  // namespace ferry::migration
