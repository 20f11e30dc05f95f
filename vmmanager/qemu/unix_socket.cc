#include "vmmanager/qemu/unix_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::vm {
namespace {

absl::Status SystemError(const char* what, const std::string& name) {
  const int error = errno;
  const std::string text = absl::StrCat("cannot ", what, " ", name, ": ", std::strerror(error));
  if (error == ENOENT || error == ECONNREFUSED) return absl::NotFoundError(text);
  return absl::ErrnoToStatus(error, text);
}

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  RETURN_IF_ERROR(CheckUnixPath(path));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::StatusOr<sockaddr_un> AddressOf(int folder, const std::string& name) {
  return AddressOf(absl::StrCat("/proc/self/fd/", folder, "/", name));
}

absl::StatusOr<UniqueFd> MakeSocket() {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return SystemError("make", "a Unix socket");
  return socket;
}

absl::StatusOr<UniqueFd> Connect(const sockaddr_un& address, const std::string& name) {
  ASSIGN_OR_RETURN(UniqueFd socket, MakeSocket());
  // Non-blocking: a full backlog must be an error, not a hang.
  ::fcntl(socket.get(), F_SETFL, O_NONBLOCK);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return SystemError("connect to", name);
  }
  return socket;
}

}  // namespace

absl::StatusOr<UniqueFd> OpenFolder(const std::string& path) {
  UniqueFd folder(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid()) return SystemError("open folder", path);
  return folder;
}

absl::StatusOr<UniqueFd> ListenUnix(int folder, const std::string& name) {
  ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(folder, name));
  ASSIGN_OR_RETURN(UniqueFd socket, MakeSocket());
  ::unlinkat(folder, name.c_str(), 0);
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return SystemError("bind", name);
  }
  constexpr int kBacklog = 8;
  if (::listen(socket.get(), kBacklog) != 0) return SystemError("listen on", name);
  return socket;
}

absl::StatusOr<UniqueFd> ConnectUnix(int folder, const std::string& name) {
  ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(folder, name));
  return Connect(address, name);
}

absl::StatusOr<UniqueFd> ConnectUnixPath(const std::string& path) {
  ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  return Connect(address, path);
}

absl::Status CheckUnixPath(const std::string& path) {
  if (path.empty() || path.size() > kMaxUnixPathBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the socket path '", path, "' has ", path.size(),
                                                   " bytes; 1 to ", kMaxUnixPathBytes,
                                                   " are possible: use a shorter folder"));
  }
  return absl::OkStatus();
}

}  // namespace ferry::vm
