#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::rpc {

// A Unix socket, mode 0600, that serves root and the daemon's own user. gRPC does not tell who is
// at the other end of one, so connections are accepted here and handed to it.
class LocalListener {
 public:
  struct Callbacks {
    std::function<void(UniqueFd)> serve;  // a connection of somebody who may use the API
    std::function<void(uid_t)> refused;   // somebody else's was closed
  };

  // `path`'s folder must exist; a socket that nobody answers on is replaced. The callbacks run on
  // the listener's own thread.
  static absl::StatusOr<std::unique_ptr<LocalListener>> Listen(const std::string& path,
                                                               Callbacks callbacks);
  // Stops accepting and removes the socket.
  ~LocalListener();
  LocalListener(const LocalListener&) = delete;
  LocalListener& operator=(const LocalListener&) = delete;

 private:
  LocalListener(std::string path, UniqueFd socket, Callbacks callbacks);
  void AcceptAll();
  UniqueFd Accept();

  const std::string path_;
  const Callbacks callbacks_;
  UniqueFd socket_;
  UniqueFd spare_;  // given up to accept, and close, a connection when there are no descriptors
  std::thread thread_;
};

}  // namespace ferry::rpc
