#include "guestmanager/guest_clock.h"

#include <spdlog/spdlog.h>

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bridge/protocol/messages.h"
#include "bridge/runtime/status_macros.h"
#include "guestmanager/clock_estimate.h"

namespace ferry::guest {
namespace {

using std::chrono::duration_cast;
using std::chrono::nanoseconds;

absl::Status CheckAnswer(const char* what, const bridge::ResponseBase& response) {
  if (response.result == 0) return absl::OkStatus();
  return absl::UnknownError(absl::StrFormat("the agent refused to %s the guest's clock (0x%08x): ",
                                            what, bridge::HResult(response.result)) +
                            response.error_message);
}

Task<absl::StatusOr<ClockReading>> ReadGuestClock(AgentCall call) {
  ClockReading reading;
  const std::string request = Encode(bridge::SimpleRequest{});
  const auto wall = std::chrono::system_clock::now().time_since_epoch();
  // The host's wall clock may be set meanwhile.
  const auto asked = std::chrono::steady_clock::now();
  CO_ASSIGN_OR_RETURN(const std::string answer, co_await call(bridge::kGetClock, request));
  reading.asked = duration_cast<nanoseconds>(wall).count();
  reading.round_trip = duration_cast<nanoseconds>(std::chrono::steady_clock::now() - asked).count();
  CO_ASSIGN_OR_RETURN(const auto response, bridge::Decode<bridge::GetClockResponse>(answer));
  CO_RETURN_IF_ERROR(CheckAnswer("tell", response));
  reading.guest = static_cast<int64_t>(response.unix_ns);
  co_return reading;
}

}  // namespace

Task<absl::Status> SetGuestClock(AgentCall call) {
  ClockEstimate estimate;
  while (!estimate.done()) {
    CO_ASSIGN_OR_RETURN(const ClockReading reading, co_await ReadGuestClock(call));
    estimate.Add(reading);
  }
  if (!estimate.good()) {
    // A guest may be so as often as it likes.
    spdlog::debug("a guest is slow to answer: its clock is set to within {} ms only",
                  estimate.uncertainty() / ClockEstimate::kMillisecond);
  }
  if (estimate.correction() == 0) co_return absl::OkStatus();
  bridge::AdjustClockRequest request;
  request.offset_ns = estimate.correction();
  CO_ASSIGN_OR_RETURN(const std::string answer,
                      co_await call(bridge::kAdjustClock, Encode(request)));
  CO_ASSIGN_OR_RETURN(const auto response, bridge::Decode<bridge::SimpleResponse>(answer));
  co_return CheckAnswer("set", response);
}

}  // namespace ferry::guest
