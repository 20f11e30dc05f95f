#include "bridge/network/route_socket.h"

#include <errno.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"

namespace ferry::net {
namespace {

constexpr size_t kAnswerBytes = 64 * 1024;
constexpr time_t kAnswerSeconds = 10;

}  // namespace

absl::StatusOr<RouteSocket> RouteSocket::Open() {
  UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, "cannot ask the kernel about networks");
  const struct timeval limit = {kAnswerSeconds, 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  return RouteSocket(std::move(fd));
}

absl::StatusOr<RouteAnswer> RouteSocket::Ask(std::string request) {
  SetSequence(&request, ++sequence_);
  struct sockaddr_nl kernel {};
  kernel.nl_family = AF_NETLINK;
  if (::sendto(fd_.get(), request.data(), request.size(), 0,
               reinterpret_cast<struct sockaddr*>(&kernel), sizeof(kernel)) < 0) {
    return absl::ErrnoToStatus(errno, "cannot ask the kernel about networks");
  }
  RouteAnswer answer;
  std::string buffer(kAnswerBytes, '\0');
  while (true) {
    struct sockaddr_nl sender {};
    socklen_t size = sizeof(sender);
    const ssize_t count = ::recvfrom(fd_.get(), buffer.data(), buffer.size(), MSG_TRUNC,
                                     reinterpret_cast<struct sockaddr*>(&sender), &size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return absl::ErrnoToStatus(errno, "the kernel gives no answer about networks");
    if (sender.nl_pid != 0) continue;  // no word of the kernel
    const size_t taken = std::min(static_cast<size_t>(count), buffer.size());
    ASSIGN_OR_RETURN(const bool whole,
                     answer.Take(std::string_view(buffer.data(), taken), sequence_));
    if (whole) return answer;
  }
}

absl::Status RouteSocket::Do(std::string request, const std::string& what) {
  ASSIGN_OR_RETURN(const RouteAnswer answer, Ask(std::move(request)));
  if (answer.error() == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(answer.error(), StrCat("cannot ", what));
}

absl::StatusOr<Link> RouteSocket::FindLink(const std::string& name) {
  ASSIGN_OR_RETURN(const RouteAnswer answer, Ask(AskForLink(name)));
  if (answer.error() == 0 && !answer.links().empty()) return answer.links().front();
  if (answer.error() != 0 && answer.error() != ENODEV) {
    return absl::ErrnoToStatus(answer.error(), StrCat("cannot look for the interface ", name));
  }
  return absl::NotFoundError(StrCat("there is no interface ", name));
}

absl::StatusOr<std::vector<Link>> RouteSocket::ListLinks() {
  ASSIGN_OR_RETURN(RouteAnswer answer, Ask(AskForLinks()));
  if (answer.error() != 0) return absl::ErrnoToStatus(answer.error(), "cannot list interfaces");
  return answer.links();
}

}  // namespace ferry::net
