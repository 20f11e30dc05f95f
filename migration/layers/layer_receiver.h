#pragma once

#include <boost/asio/local/stream_protocol.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "migration/connection/session_connection.h"
#include "migration/layers/layer_channel.h"
#include "migration/layers/layer_header.h"
#include "vmmanager/images/image_store.h"

namespace ferry::migration {

// Destination: takes layers from a session connection into this host's image store. Each must be
// one that was asked for, and have its digest. Thread: the executor's.
class LayerReceiver {
 public:
  struct Options {
    std::string owner;        // whose pin keeps the layers
    uint64_t reserve = 0;     // bytes of the disk that are kept for others
    std::string socket_path;  // in a folder that only we can enter; what is there goes
    milliseconds silence{0};  // how long the source may send nothing; 0: for ever
  };
  // Told how many bytes of layers have come, of all that are to.
  using OnProgress = std::function<void(uint64_t received, uint64_t of)>;

  LayerReceiver(Executor executor, vm::ImageStore& store, Options options)
      : executor_(executor), store_(store), options_(std::move(options)) {}

  // RESOURCE_EXHAUSTED if there is no room for all of `wanted`, digests with their sizes.
  Task<absl::Status> CheckRoom(std::map<std::string, uint64_t> wanted);
  // `connection` is left open: the source closes it when it has read what is said of the last one.
  // Returns when all of `wanted` are in the store, or with why the first was not taken, which the
  // source is told, too: RESOURCE_EXHAUSTED, before any is taken, if there is no room for all of
  // them. Those that were taken stay, for the owner. May be cancelled.
  Task<absl::Status> Receive(std::shared_ptr<SessionConnection> connection,
                             std::map<std::string, uint64_t> wanted, OnProgress progress);

 private:
  struct File;
  using Acceptor = asio::local::stream_protocol::acceptor;
  absl::Status ListenOn(Acceptor* acceptor) const;
  Task<absl::Status> TakeAll(std::shared_ptr<SessionConnection> connection);
  Task<absl::StatusOr<LayerChannel>> NextChannel(Acceptor* acceptor,
                                                 std::shared_ptr<SessionConnection> connection);
  Task<absl::StatusOr<std::string>> Heard(Task<absl::StatusOr<std::string>> read) const;
  Task<absl::Status> TakeOne(LayerChannel* channel);
  Task<absl::Status> Store(LayerChannel* channel, LayerHeader header);
  Task<absl::Status> StoreIn(std::shared_ptr<vm::TempFolder> folder, LayerChannel* channel,
                             LayerHeader header);
  absl::Status CheckWanted(const LayerHeader& header) const;

  const Executor executor_;
  vm::ImageStore& store_;
  const Options options_;
  std::map<std::string, uint64_t> wanted_;  // that have not come yet
  uint64_t received_ = 0;
  uint64_t total_ = 0;
  OnProgress progress_;
};

}  // namespace ferry::migration
