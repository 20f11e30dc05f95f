#include "vmmanager/sandbox/private_socket.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace ferry::vm {

absl::StatusOr<PrivateSocket> PrivateSocket::Make(const std::string& parent,
                                                  const std::string& stem, const Owner& owner) {
  std::string folder = absl::StrCat(parent, "/", stem, ".XXXXXX");
  if (::mkdtemp(folder.data()) == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("cannot make a folder in ", parent, ": ", std::strerror(errno)));
  }
  PrivateSocket socket(folder);
  if (owner && ::chown(folder.c_str(), owner->first, owner->second) != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot give folder ", folder, " to QEMU's user: ", std::strerror(errno)));
  }
  return socket;
}

PrivateSocket::~PrivateSocket() {
  if (folder_.empty()) return;
  ::unlink(path().c_str());
  ::rmdir(folder_.c_str());
}

}  // namespace ferry::vm
