#include "migration/session/notifier.h"

#include <google/protobuf/util/time_util.h>
#include <spdlog/spdlog.h>

#include <boost/json.hpp>
#include <utility>

#include "bridge/runtime/str_cat.h"

namespace ferry::migration {
namespace {

using schema::MigrationEventName;
using schema::MigrationResult;

constexpr size_t kProgressKept = 10'000;  // in the store; some 40 minutes of one transfer
constexpr size_t kRecent = 256;           // in memory
// More than a session tells between two records of its journal, with which all before are durable.
constexpr uint32_t kGap = 1 << 16;
constexpr size_t kReadAtOnce = 256;

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

Notifier::Notifier(Executor executor, vm::Store& store, std::string session_id)
    : executor_(executor),
      store_(store),
      session_id_(std::move(session_id)),
      changed_(std::move(executor)) {}

Task<absl::Status> Notifier::Restore() {
  auto self = shared_from_this();
  while (true) {
    auto read = co_await ReadAfter(kept_id_);
    if (!read.ok()) co_return read.status();
    if (read->empty()) break;
    for (const v1::NotificationsResponse& message : *read) {
      kept_id_ = message.message_id();
      Note(message);
      if (message.notification().has_progress()) progress_.push_back(kept_id_);
    }
  }
  last_id_ = kept_id_;
  next_id_ = kept_id_ + kGap;
  co_return absl::OkStatus();
}

void Notifier::Note(const v1::NotificationsResponse& message) {
  told_.insert(message.notification().phase());
  if (!start_time_) start_time_ = message.start_time();
}

uint32_t Notifier::Publish(const v1::Notification& notification) {
  if (closed_) return 0;
  v1::NotificationsResponse message;
  last_id_ = next_id_++;
  message.set_message_id(last_id_);
  *message.mutable_notification() = notification;
  *message.mutable_update_time() = google::protobuf::util::TimeUtil::GetCurrentTime();
  *message.mutable_start_time() = start_time_.value_or(message.update_time());
  Note(message);
  pending_.push_back(std::move(message));
  if (!std::exchange(writing_, true)) Spawn(executor_, Write(shared_from_this()));
  Pulse();
  return last_id_;
}

Task<void> Notifier::Write(std::shared_ptr<Notifier> self) {
  while (!self->pending_.empty()) {
    const v1::NotificationsResponse& message = self->pending_.front();
    vm::NotificationRow row{self->session_id_, message.message_id(), message.SerializeAsString()};
    if (message.notification().has_progress()) self->progress_.push_back(row.id);
    if (self->progress_.size() > kProgressKept) {
      row.drop = self->progress_.front();
      self->progress_.pop_front();
    }
    absl::Status put = co_await self->store_.PutNotification(std::move(row));
    // Who listens now gets it all the same.
    if (!put.ok()) spdlog::error("session {}: {}", self->session_id_, put.ToString());
    self->all_kept_ = self->all_kept_ && put.ok();
    self->kept_id_ = self->pending_.front().message_id();
    self->recent_.push_back(std::move(self->pending_.front()));
    self->pending_.pop_front();
    if (self->recent_.size() > kRecent) self->recent_.pop_front();
    self->Pulse();
  }
  self->writing_ = false;
  self->LetGoIfOver();
  self->Pulse();
}

void Notifier::Pulse() {
  changed_.Set();
  changed_.Reset();
}

void Notifier::Close() {
  closed_ = true;
  LetGoIfOver();
  Pulse();
}

void Notifier::LetGoIfOver() {
  if (!closed_ || writing_ || !all_kept_ || subscribers_ > 0) return;
  std::deque<v1::NotificationsResponse>().swap(recent_);
  std::deque<uint32_t>().swap(progress_);
}

Notifier::Messages Notifier::RecentAfter(uint32_t last_seen) const {
  Messages messages;
  for (const v1::NotificationsResponse& message : recent_) {
    if (message.message_id() > last_seen) messages.push_back(message);
  }
  return messages;
}

Task<absl::StatusOr<Notifier::Messages>> Notifier::ReadAfter(uint32_t last_seen) {
  auto rows = co_await store_.ReadNotifications(session_id_, last_seen, kReadAtOnce);
  if (!rows.ok()) co_return rows.status();
  Messages messages;
  for (const vm::NotificationRow& row : *rows) {
    v1::NotificationsResponse& message = messages.emplace_back();
    if (!message.ParseFromString(row.bytes) || message.message_id() != row.id) {
      co_return absl::DataLossError(
          StrCat("notification ", row.id, " of session ", session_id_, " is damaged"));
    }
  }
  co_return messages;
}

Task<absl::StatusOr<std::vector<v1::NotificationsResponse>>> Notifier::Next(uint32_t last_seen) {
  auto self = shared_from_this();
  while (true) {
    if (last_seen < kept_id_) {
      if (recent_.empty() || recent_.front().message_id() > last_seen + 1) {
        auto read = co_await ReadAfter(last_seen);
        if (!read.ok() || !read->empty()) co_return read;
      }
      Messages recent = RecentAfter(last_seen);
      if (!recent.empty()) co_return recent;
    }
    if (closed_ && pending_.empty()) co_return Messages();
    co_await changed_.Wait();
  }
}

Task<void> Notifier::AwaitPublished(uint32_t id) {
  auto self = shared_from_this();
  while (last_id() < id) co_await changed_.Wait();
}

Task<void> Notifier::Flush() {
  auto self = shared_from_this();
  while (!pending_.empty()) co_await changed_.Wait();
}

}  // namespace ferry::migration
