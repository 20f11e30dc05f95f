#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/network/route_messages.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::net {

// Asks the kernel of this thread's network namespace. Calls block for as long as others change
// networks.
class RouteSocket {
 public:
  static absl::StatusOr<RouteSocket> Open();

  // Has the kernel do it; `what` says what that is, in errors. PERMISSION_DENIED, NOT_FOUND,
  // ALREADY_EXISTS and so on as the kernel says.
  absl::Status Do(std::string request, const std::string& what);

  // NOT_FOUND if there is none of that name.
  absl::StatusOr<Link> FindLink(const std::string& name);
  absl::StatusOr<std::vector<Link>> ListLinks();

 private:
  explicit RouteSocket(UniqueFd fd) : fd_(std::move(fd)) {}
  absl::StatusOr<RouteAnswer> Ask(std::string request);

  UniqueFd fd_;
  uint32_t sequence_ = 0;
};

}  // namespace ferry::net
