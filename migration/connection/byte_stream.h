#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::migration {

// What the session connection runs over: plain TCP, a Unix socket, or TLS over either. One read and
// one write may be pending at the same time.
class ByteStream {
 public:
  virtual ~ByteStream() = default;

  // Reads at least one byte; 0 is the end of the stream.
  virtual Task<absl::StatusOr<size_t>> ReadSome(std::span<char> buffer) = 0;

  // Writes all of both parts, gathered.
  virtual Task<absl::Status> Write(std::string_view header, std::string_view payload) = 0;

  // The peer reads what was written, and then the end.
  virtual void ShutdownWrite() = 0;

  // Aborts pending operations. Idempotent.
  virtual void Close() = 0;

  // Who is at the other end, for people: an address, "a local process" for Unix sockets.
  virtual std::string peer() const = 0;

  // The host that the other end's certificate names; empty where none was shown.
  virtual std::string peer_name() const { return {}; }
};

// Takes a connected stream socket of any family and sets it up for the session connection: no delay
// of small frames, and little unsent data in the kernel, so that control frames overtake bulk.
absl::StatusOr<std::unique_ptr<ByteStream>> MakeSocketStream(Executor executor, UniqueFd socket);

// Checks that `fd` is a connected stream socket of TCP or Unix.
absl::Status CheckConnectedStream(int fd);

// "host:port" or "[v6]:port" of the peer.
std::string DescribePeer(int fd);

// Sets the options above, and close-on-exec; not an error where the family does not have them.
void TuneSocket(int fd);

}  // namespace ferry::migration
