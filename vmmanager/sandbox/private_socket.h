#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace ferry::vm {

// A place for a Unix socket between us and a VMM: a folder that nobody else may look into. Goes,
// with the socket, when the object does.
class PrivateSocket {
 public:
  // The user and group of the VMM, if it runs as another.
  using Owner = std::optional<std::pair<uid_t, gid_t>>;

  // Makes a folder of a name that begins with `stem` in `parent`; both are short, for the path of a
  // socket must be. UNAVAILABLE if that cannot be.
  static absl::StatusOr<PrivateSocket> Make(const std::string& parent, const std::string& stem,
                                            const Owner& owner);
  ~PrivateSocket();
  PrivateSocket(PrivateSocket&& other) noexcept : folder_(std::exchange(other.folder_, {})) {}
  PrivateSocket& operator=(PrivateSocket&&) = delete;

  std::string path() const { return folder_ + "/m"; }

 private:
  explicit PrivateSocket(std::string folder) : folder_(std::move(folder)) {}

  std::string folder_;
};

}  // namespace ferry::vm
