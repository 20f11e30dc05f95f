#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/blocking_worker.h"
#include "migration/connection/session_connection.h"
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

  LayerSender(Executor executor, std::shared_ptr<SessionConnection> connection)
      : executor_(executor), connection_(std::move(connection)), disk_(executor) {}

  // Returns when the destination has taken all of them. `socket_path` is a free path in a folder
  // that only we can enter. May be cancelled.
  Task<absl::Status> Send(std::vector<LayerFile> layers, std::string socket_path,
                          OnProgress progress);

 private:
  struct File;
  Task<absl::Status> SendOne(LayerFile layer, std::string socket_path);

  const Executor executor_;
  const std::shared_ptr<SessionConnection> connection_;
  BlockingWorker disk_;
  OnProgress progress_;
  uint64_t sent_ = 0;
  uint64_t total_ = 0;
};

}  // namespace ferry::migration
