#pragma once

#include <boost/asio/posix/stream_descriptor.hpp>
#include <cstdint>
#include <memory>
#include <string>

#include "bridge/runtime/async.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::vm {

// Writes what a guest says on its console to a file, and keeps no more than the newest of it: a
// full file becomes the former one, and the one before that is gone. While nobody reads the
// console's socket QEMU drops what the guest says, so it waits for no daemon. Thread: the
// executor's only.
class ConsoleLog : public std::enable_shared_from_this<ConsoleLog> {
 public:
  static constexpr uint64_t kMaxFileBytes = 256 * 1024;
  static constexpr char kName[] = "console.log";
  static constexpr char kFormerName[] = "console.log.1";

  // Goes on behind what is in `folder`, a descriptor that it takes over like `socket`. Reads until
  // the socket ends or Close().
  static std::shared_ptr<ConsoleLog> Start(Executor executor, UniqueFd socket, UniqueFd folder,
                                           uint64_t max_file_bytes = kMaxFileBytes);

  // Takes what has come and not been read yet, without waiting.
  void Drain();
  void Close();

  ConsoleLog(Executor executor, UniqueFd socket, UniqueFd folder, uint64_t max_file_bytes);

 private:
  static Task<void> Run(std::shared_ptr<ConsoleLog> self);
  void OpenFile();
  void Write(std::string_view text);

  asio::posix::stream_descriptor socket_;
  UniqueFd folder_;
  const uint64_t max_file_bytes_;
  UniqueFd file_;
  uint64_t size_ = 0;
  bool over_ = false;
};

// The end of what the guest said, at most `max_bytes`, from its first whole line on.
std::string ConsoleTail(const std::string& folder, size_t max_bytes);

}  // namespace ferry::vm
