#include "guestmanager/guest_filesystems.h"

#include <algorithm>
#include <string>

#include "bridge/protocol/freeze_limits.h"
#include "bridge/protocol/messages.h"
#include "bridge/runtime/status_macros.h"
#include "guestmanager/guest_containers.h"

namespace ferry::guest {

absl::Status GuestFilesystems::CheckSupported() const {
  if (!connection_->ready()) {
    return absl::UnavailableError("the guest's agent is not connected; try again when it is");
  }
  if (connection_->core().capabilities().guest_defined.freeze_supported) return absl::OkStatus();
  return absl::UnimplementedError(
      "the VM's guest image has an agent that cannot freeze filesystems");
}

Task<absl::StatusOr<size_t>> GuestFilesystems::Freeze(milliseconds limit) {
  CO_RETURN_IF_ERROR(CheckSupported());
  const std::shared_ptr<GuestConnection> connection = connection_;
  bridge::FreezeFilesystemsRequest request;
  const auto most = static_cast<milliseconds::rep>(bridge::kMaxFreezeMs);
  request.timeout_ms = static_cast<uint32_t>(std::clamp<milliseconds::rep>(limit.count(), 1, most));
  CO_ASSIGN_OR_RETURN(const std::string answer,
                      co_await connection->Call(bridge::kFreezeFilesystems, Encode(request),
                                                limit + bridge::FreezeAnswerSlack(limit)));
  CO_ASSIGN_OR_RETURN(const auto response,
                      bridge::Decode<bridge::FreezeFilesystemsResponse>(answer));
  CO_RETURN_IF_ERROR(FromAgent(response, "freeze its filesystems"));
  co_return response.frozen;
}

Task<absl::Status> GuestFilesystems::Thaw(milliseconds limit) {
  const std::shared_ptr<GuestConnection> connection = connection_;
  std::string request = Encode(bridge::SimpleRequest{});
  CO_ASSIGN_OR_RETURN(
      const std::string answer,
      co_await connection->Call(bridge::kThawFilesystems, std::move(request), limit));
  CO_ASSIGN_OR_RETURN(const auto response, bridge::Decode<bridge::SimpleResponse>(answer));
  co_return FromAgent(response, "keep its filesystems frozen");
}

void GuestFilesystems::ThawSoon() {
  (void)connection_->Post(bridge::kThawFilesystems, Encode(bridge::SimpleRequest{}));
}

}  // namespace ferry::guest
