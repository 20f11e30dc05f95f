#include "migration/session/notifier.h"

#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <boost/json.hpp>

namespace ferry::migration {
namespace {

using schema::MigrationEventName;
using schema::MigrationResult;

constexpr size_t kProgressKept = 256;

v1::MigrationPhase ToPhase(MigrationEventName name) {
  switch (name) {
    case MigrationEventName::kSetupDone:
      return v1::MIGRATION_PHASE_SETUP_DONE;
    case MigrationEventName::kTransferInProgress:
      return v1::MIGRATION_PHASE_TRANSFER_IN_PROGRESS;
    case MigrationEventName::kBlackoutStarted:
      return v1::MIGRATION_PHASE_BLACKOUT_STARTED;
    case MigrationEventName::kOfflineDone:
      return v1::MIGRATION_PHASE_OFFLINE_DONE;
    case MigrationEventName::kBlackoutExited:
      return v1::MIGRATION_PHASE_BLACKOUT_EXITED;
    case MigrationEventName::kMigrationDone:
      return v1::MIGRATION_PHASE_DONE;
    case MigrationEventName::kMigrationRecoveryDone:
      return v1::MIGRATION_PHASE_RECOVERY_DONE;
    case MigrationEventName::kMigrationFailed:
      return v1::MIGRATION_PHASE_FAILED;
    case MigrationEventName::kUnknown:
      break;
  }
  return v1::MIGRATION_PHASE_UNSPECIFIED;
}

v1::MigrationPhaseState ToPhaseState(MigrationEventName name,
                                     std::optional<MigrationResult> result) {
  switch (result.value_or(MigrationResult::kInvalid)) {
    case MigrationResult::kSuccess:
      return v1::MIGRATION_PHASE_STATE_SUCCESS;
    case MigrationResult::kMigrationCancelled:
      return v1::MIGRATION_PHASE_STATE_CANCELLED;
    case MigrationResult::kGuestInitiatedCancellation:
      return v1::MIGRATION_PHASE_STATE_GUEST_INITIATED_CANCELLATION;
    case MigrationResult::kSourceMigrationFailed:
      return v1::MIGRATION_PHASE_STATE_SOURCE_FAILED;
    case MigrationResult::kDestinationMigrationFailed:
      return v1::MIGRATION_PHASE_STATE_DESTINATION_FAILED;
    case MigrationResult::kMigrationRecoveryFailed:
      return v1::MIGRATION_PHASE_STATE_RECOVERY_FAILED;
    case MigrationResult::kInvalid:
      break;
  }
  switch (name) {
    case MigrationEventName::kSetupDone:
    case MigrationEventName::kTransferInProgress:
    case MigrationEventName::kBlackoutStarted:
    case MigrationEventName::kOfflineDone:
    case MigrationEventName::kBlackoutExited:
      return v1::MIGRATION_PHASE_STATE_SUCCESS;
    default:
      return v1::MIGRATION_PHASE_STATE_UNSPECIFIED;
  }
}

v1::MigrationOrigin ToOrigin(std::optional<schema::MigrationOrigin> origin,
                             v1::MigrationOrigin own) {
  if (!origin.has_value()) return own;
  return *origin == schema::MigrationOrigin::kSource ? v1::MIGRATION_ORIGIN_SOURCE
                                                     : v1::MIGRATION_ORIGIN_DESTINATION;
}

void AddBlackoutDetails(const std::string& json, v1::Notification& notification) {
  boost::system::error_code error;
  const boost::json::value parsed = boost::json::parse(json, error);
  if (error || !parsed.is_object()) return;
  const boost::json::value* duration =
      parsed.as_object().if_contains("BlackoutDurationMilliseconds");
  if (duration == nullptr) return;
  const uint64_t milliseconds = duration->to_number<uint64_t>(error);
  if (error) return;
  auto* details = notification.mutable_blackout_exited();
  details->set_blackout_duration_milliseconds(milliseconds);
  const boost::json::value* stop = parsed.as_object().if_contains("BlackoutStopTimestamp");
  if (stop == nullptr || !stop->is_string()) return;
  google::protobuf::Timestamp timestamp;
  if (google::protobuf::util::TimeUtil::FromString(std::string(stop->as_string()), &timestamp)) {
    *details->mutable_blackout_stop_timestamp() = timestamp;
  }
}

}  // namespace

v1::Notification ToNotification(const schema::MigrationEvent& event,
                                v1::MigrationOrigin own_origin) {
  v1::Notification notification;
  notification.set_origin(ToOrigin(event.origin, own_origin));
  notification.set_phase(ToPhase(event.event));
  notification.set_state(ToPhaseState(event.event, event.result));
  if (event.event == MigrationEventName::kBlackoutExited &&
      !event.additional_details_json.empty()) {
    AddBlackoutDetails(event.additional_details_json, notification);
  }
  return notification;
}

uint32_t Notifier::Publish(const v1::Notification& notification) {
  if (closed_) return 0;
  v1::NotificationsResponse message;
  message.set_message_id(next_id_++);
  *message.mutable_notification() = notification;
  *message.mutable_update_time() = google::protobuf::util::TimeUtil::GetCurrentTime();
  *message.mutable_start_time() =
      kept_.empty() ? message.update_time() : kept_.front().start_time();
  if (notification.has_progress()) ++progress_kept_;
  kept_.push_back(std::move(message));
  DropOldProgress();
  changed_.Set();
  changed_.Reset();
  return next_id_ - 1;
}

void Notifier::DropOldProgress() {
  if (progress_kept_ <= kProgressKept) return;
  auto oldest = std::find_if(kept_.begin(), kept_.end(), [](const v1::NotificationsResponse& m) {
    return m.notification().has_progress();
  });
  kept_.erase(oldest);
  --progress_kept_;
}

void Notifier::Close() {
  closed_ = true;
  changed_.Set();
}

Task<std::optional<v1::NotificationsResponse>> Notifier::Next(uint32_t last_seen) {
  while (true) {
    for (const v1::NotificationsResponse& message : kept_) {
      if (message.message_id() > last_seen) co_return message;
    }
    if (closed_) co_return std::nullopt;
    co_await changed_.Wait();
  }
}

}  // namespace ferry::migration
