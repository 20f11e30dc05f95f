#include "migration/connection/process_socket.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "migration/connection/byte_stream.h"

extern "C" {
#include <sys/pidfd.h>
}

namespace ferry::migration {
namespace {

absl::Status Gone(pid_t pid) {
  return absl::NotFoundError(absl::StrCat("there is no process ", pid, " on this host"));
}

// Whether each of the process's user ids is `user`; nullopt if it cannot be told.
std::optional<bool> BelongsTo(pid_t pid, uid_t user) {
  std::ifstream status(absl::StrCat("/proc/", pid, "/status"));
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with("Uid:")) continue;
    std::istringstream ids(line.substr(4));
    uid_t real = 0;
    uid_t effective = 0;
    uid_t saved = 0;
    if (!(ids >> real >> effective >> saved)) return std::nullopt;
    return real == user && effective == user && saved == user;
  }
  return std::nullopt;
}

// A pidfd is readable once its process has ended.
bool HasEnded(const UniqueFd& process) {
  pollfd entry{process.get(), POLLIN, 0};
  return ::poll(&entry, 1, 0) != 0;
}

absl::Status CheckOwner(const ProcessSocket& socket, const UniqueFd& process, uid_t caller) {
  if (caller == 0) return absl::OkStatus();
  const std::optional<bool> own = BelongsTo(socket.pid, caller);
  // What was read is of this process only if it still runs now: its number may be another's by
  // then.
  if (!own || HasEnded(process)) return Gone(socket.pid);
  if (*own) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat(
      "process ", socket.pid, " belongs to another user; only root may take a socket from it"));
}

}  // namespace

absl::StatusOr<UniqueFd> TakeProcessSocket(const ProcessSocket& socket, uid_t caller) {
  if (socket.pid <= 0 || socket.fd < 0) {
    return absl::InvalidArgumentError(absl::StrCat("there is no descriptor ", socket.fd,
                                                   " of a process ", socket.pid,
                                                   "; name a process and its socket"));
  }
  if (socket.pid == ::getpid()) {
    return absl::InvalidArgumentError("the daemon's own descriptors cannot be handed over to it");
  }
  UniqueFd process(::pidfd_open(socket.pid, 0));
  if (!process.valid()) return Gone(socket.pid);
  RETURN_IF_ERROR(CheckOwner(socket, process, caller));
  UniqueFd taken(::pidfd_getfd(process.get(), socket.fd, 0));
  if (!taken.valid()) {
    if (errno == ESRCH) return Gone(socket.pid);
    if (errno == EBADF) {
      return absl::NotFoundError(
          absl::StrCat("process ", socket.pid, " has no open descriptor ", socket.fd));
    }
    return absl::PermissionDeniedError(absl::StrCat(
        "the kernel does not let this daemon take a descriptor of process ", socket.pid, ": ",
        std::strerror(errno), "; hand the socket over through handoff.sock"));
  }
  // It may have become another user's program between the look at it and the taking.
  RETURN_IF_ERROR(CheckOwner(socket, process, caller));
  RETURN_IF_ERROR(CheckConnectedStream(taken.get()));
  return taken;
}

}  // namespace ferry::migration
