#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::bridge {

// The Unix socket on which an OCI runtime hands over a terminal's master. Removed at the end.
class ConsoleSocket {
 public:
  static absl::StatusOr<ConsoleSocket> Listen(const std::string& path);
  ConsoleSocket(ConsoleSocket&& other) = default;
  ConsoleSocket& operator=(ConsoleSocket&&) = delete;
  ~ConsoleSocket();

  // The master that was sent. Does not wait: call it when the sender has ended.
  absl::StatusOr<UniqueFd> TakeMaster();

 private:
  ConsoleSocket(std::string path, UniqueFd listener)
      : path_(std::move(path)), listener_(std::move(listener)) {}

  std::string path_;
  UniqueFd listener_;
};

}  // namespace ferry::bridge
