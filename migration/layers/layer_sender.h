#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/blocking_worker.h"
#include "migration/connection/session_connection.h"
#include "migration/layers/layer_channel.h"
#include "migration/layers/layer_header.h"

namespace ferry::migration {

// A layer to send, and its file.
struct LayerFile {
  LayerHeader header;
  std::string path;
};

// Source: sends layers over a session connection, one after the other. Reads on a thread of its
// own. Thread: the executor's.
class LayerSender {
 public:
  // Told how many bytes of layers have gone out, of all that are to.
  using OnProgress = std::function<void(uint64_t sent, uint64_t of)>;

  // `stall`: how long no byte may move; 0: for ever.
  LayerSender(Executor executor, std::shared_ptr<SessionConnection> connection, milliseconds stall)
      : executor_(executor), connection_(std::move(connection)), stall_(stall), disk_(executor) {}

  // Returns when the destination has taken all of them; ABORTED "transfer_stalled" if it stops
  // reading, or does not answer in the time that a slow disk takes. `socket_path` is a free path in
  // a folder that only we can enter. May be cancelled.
  Task<absl::Status> Send(std::vector<LayerFile> layers, std::string socket_path,
                          OnProgress progress);

 private:
  struct File;
  Task<absl::Status> SendOne(LayerFile layer, std::string socket_path);
  Task<absl::Status> WritePiece(LayerChannel* channel, std::string piece);
  Task<absl::StatusOr<std::string>> ReadAnswer(LayerChannel* channel, uint64_t size);
  // Returns when no byte has moved for so long.
  Task<void> AwaitStall(milliseconds limit) const;

  const Executor executor_;
  const std::shared_ptr<SessionConnection> connection_;
  const milliseconds stall_;
  BlockingWorker disk_;
  OnProgress progress_;
  uint64_t sent_ = 0;
  uint64_t total_ = 0;
};

}  // namespace ferry::migration
