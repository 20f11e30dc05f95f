#include "bridge/guest/redial.h"

#include <algorithm>

namespace ferry::bridge {
namespace {

Task<absl::Status> AwaitLink(GuestTransport* transport, uint64_t* seen) {
  *seen = co_await transport->WaitForLink(*seen);
  co_return absl::OkStatus();
}

}  // namespace

Task<void> Redial::Wait() {
  // After a migration the link is up again before anybody asks: no timer, nothing to cancel.
  if (const uint64_t links = transport_.links(); links > seen_) {
    seen_ = links;
    co_return;
  }
  const milliseconds limit = std::exchange(delay_, std::min(delay_ * 2, kLastDelay));
  Task<absl::Status> link = AwaitLink(&transport_, &seen_);
  const absl::Status ignored = co_await WithDeadline(limit, "the link", std::move(link));
}

}  // namespace ferry::bridge
