#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "bridge/runtime/unique_fd.h"

// Handing a connected socket over to a daemon, for callers who connect the two hosts themselves.
// gRPC cannot carry descriptors, so a Unix socket does. The caller connects and sends the line
// {"version":1}\n together with one descriptor (SCM_RIGHTS); the daemon answers with one line,
// {"ticket":"<64 hex digits>"} or {"error":"<text>"}. The ticket then goes into
// CreateDuplicateSocket, once.
namespace ferry::migration {

inline constexpr size_t kTicketSize = 64;

struct HandoffOptions {
  std::string path;                           // in a folder that only the daemon's user can enter
  size_t max_unclaimed = 16;                  // sockets whose ticket was not redeemed yet
  std::chrono::milliseconds lifetime{60000};  // of an unclaimed socket
  std::chrono::milliseconds deadline{5000};   // for the caller to speak
};

class SocketHandoff {
 public:
  static absl::StatusOr<std::unique_ptr<SocketHandoff>> Listen(Executor executor,
                                                               HandoffOptions options);
  ~SocketHandoff();
  SocketHandoff(const SocketHandoff&) = delete;
  SocketHandoff& operator=(const SocketHandoff&) = delete;

  // The socket behind a ticket; a ticket works once. INVALID_ARGUMENT if it has not a ticket's
  // form, NOT_FOUND if it is unknown, used or too old.
  absl::StatusOr<UniqueFd> Redeem(std::string_view ticket);

  // Stops listening and closes what is unclaimed.
  void Close();

 private:
  class State;
  explicit SocketHandoff(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

// The caller's side: returns the ticket.
Task<absl::StatusOr<std::string>> HandOverSocket(std::string path, UniqueFd socket,
                                                 std::chrono::milliseconds deadline);

}  // namespace ferry::migration
