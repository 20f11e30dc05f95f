#include "vmmanager/rpc/local_listener.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/peer_user.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/channel.h"

namespace ferry::rpc {
namespace {

sockaddr_un SocketAddress(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

// A socket file is left behind by a daemon that was killed; it is replaced only if nobody answers.
absl::Status ClearStaleSocket(const std::string& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("cannot look at ", path, ": ", std::strerror(errno)));
  }
  if (!S_ISSOCK(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " exists and is not a socket; remove it or choose another path"));
  }
  UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const sockaddr_un address = SocketAddress(path);
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ||
      errno != ECONNREFUSED) {
    return absl::FailedPreconditionError(
        absl::StrCat("a daemon already listens on ", path, "; stop it or choose another path"));
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return absl::InternalError(absl::StrCat("cannot remove ", path, ": ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

absl::Status CheckPath(const std::string& path) {
  RETURN_IF_ERROR(ParseAddress(absl::StrCat("unix:", path)).status());
  const std::string folder = path.substr(0, path.rfind('/') + 1);
  struct stat info {};
  if (::stat(folder.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("the socket's folder ", folder, " does not exist; create it first"));
  }
  return ClearStaleSocket(path);
}

UniqueFd OpenSpare() { return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

}  // namespace

absl::StatusOr<std::unique_ptr<LocalListener>> LocalListener::Listen(const std::string& path,
                                                                     Callbacks callbacks) {
  RETURN_IF_ERROR(CheckPath(path));
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = SocketAddress(path);
  // The socket's own mode becomes the file's, so that there is no moment at which others may
  // connect.
  if (!socket.valid() || ::fchmod(socket.get(), 0600) != 0 ||
      ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(socket.get(), SOMAXCONN) != 0) {
    return absl::FailedPreconditionError(absl::StrCat("cannot listen on unix:", path, ": ",
                                                      std::strerror(errno),
                                                      "; check that its folder is writable"));
  }
  return std::unique_ptr<LocalListener>(
      new LocalListener(path, std::move(socket), std::move(callbacks)));
}

LocalListener::LocalListener(std::string path, UniqueFd socket, Callbacks callbacks)
    : path_(std::move(path)),
      callbacks_(std::move(callbacks)),
      socket_(std::move(socket)),
      spare_(OpenSpare()),
      thread_([this] { AcceptAll(); }) {}

LocalListener::~LocalListener() {
  ::unlink(path_.c_str());
  ::shutdown(socket_.get(), SHUT_RDWR);  // wakes accept
  thread_.join();
}

void LocalListener::AcceptAll() {
  while (true) {
    UniqueFd connection = Accept();
    if (!connection.valid()) return;
    const std::optional<uid_t> user = PeerUser(connection.get());
    if (!user) continue;
    if (IsRootOrOurs(*user)) {
      callbacks_.serve(std::move(connection));
    } else {
      callbacks_.refused(*user);  // and then it is closed
    }
  }
}

// The next connection; none when the listener is shut down.
UniqueFd LocalListener::Accept() {
  while (true) {
    UniqueFd connection(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (connection.valid() || errno == EINVAL) return connection;
    if (errno != EMFILE && errno != ENFILE) continue;
    // Whoever waits is told at once, instead of this loop spinning until a descriptor is free.
    spare_.Reset();
    UniqueFd(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    spare_ = OpenSpare();
  }
}

}  // namespace ferry::rpc
