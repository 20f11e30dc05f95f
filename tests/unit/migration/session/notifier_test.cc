#include "migration/session/notifier.h"

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <vector>

namespace ferry::migration {
namespace {

using schema::MigrationEvent;
using schema::MigrationEventName;
using schema::MigrationResult;

constexpr v1::MigrationOrigin kOwn = v1::MIGRATION_ORIGIN_DESTINATION;

MigrationEvent Event(MigrationEventName name, std::optional<MigrationResult> result = {}) {
  MigrationEvent event;
  event.event = name;
  event.result = result;
  return event;
}

TEST(ToNotification, EmptyOriginFallsBackToOwnSide) {
  MigrationEvent event = Event(MigrationEventName::kSetupDone);
  EXPECT_EQ(ToNotification(event, kOwn).origin(), v1::MIGRATION_ORIGIN_DESTINATION);
  event.origin = schema::MigrationOrigin::kSource;
  EXPECT_EQ(ToNotification(event, kOwn).origin(), v1::MIGRATION_ORIGIN_SOURCE);
}

TEST(ToNotification, EveryEventHasItsPhase) {
  const std::vector<std::pair<MigrationEventName, v1::MigrationPhase>> phases = {
      {MigrationEventName::kSetupDone, v1::MIGRATION_PHASE_SETUP_DONE},
      {MigrationEventName::kTransferInProgress, v1::MIGRATION_PHASE_TRANSFER_IN_PROGRESS},
      {MigrationEventName::kBlackoutStarted, v1::MIGRATION_PHASE_BLACKOUT_STARTED},
      {MigrationEventName::kOfflineDone, v1::MIGRATION_PHASE_OFFLINE_DONE},
      {MigrationEventName::kBlackoutExited, v1::MIGRATION_PHASE_BLACKOUT_EXITED},
      {MigrationEventName::kMigrationDone, v1::MIGRATION_PHASE_DONE},
      {MigrationEventName::kMigrationRecoveryDone, v1::MIGRATION_PHASE_RECOVERY_DONE},
      {MigrationEventName::kMigrationFailed, v1::MIGRATION_PHASE_FAILED},
      {MigrationEventName::kUnknown, v1::MIGRATION_PHASE_UNSPECIFIED}};
  for (const auto& [name, phase] : phases) {
    EXPECT_EQ(ToNotification(Event(name), kOwn).phase(), phase);
  }
}

TEST(ToNotification, AKnownResultWinsOverThePhase) {
  EXPECT_EQ(ToNotification(Event(MigrationEventName::kSetupDone), kOwn).state(),
            v1::MIGRATION_PHASE_STATE_SUCCESS);
  EXPECT_EQ(ToNotification(
                Event(MigrationEventName::kSetupDone, MigrationResult::kMigrationCancelled), kOwn)
                .state(),
            v1::MIGRATION_PHASE_STATE_CANCELLED);
  EXPECT_EQ(ToNotification(Event(MigrationEventName::kMigrationDone), kOwn).state(),
            v1::MIGRATION_PHASE_STATE_UNSPECIFIED);
  EXPECT_EQ(ToNotification(Event(MigrationEventName::kMigrationFailed,
                                 MigrationResult::kDestinationMigrationFailed),
                           kOwn)
                .state(),
            v1::MIGRATION_PHASE_STATE_DESTINATION_FAILED);
}

TEST(ToNotification, DetailsOnlyOnBlackoutExitedAndOnlyIfParseable) {
  MigrationEvent event = Event(MigrationEventName::kBlackoutExited);
  event.additional_details_json =
      R"({"BlackoutDurationMilliseconds":9,"BlackoutStopTimestamp":"2026-01-02T03:04:05Z"})";
  v1::Notification notification = ToNotification(event, kOwn);
  EXPECT_EQ(notification.blackout_exited().blackout_duration_milliseconds(), 9u);
  EXPECT_EQ(notification.blackout_exited().blackout_stop_timestamp().seconds(), 1767323045);

  event.additional_details_json = "{broken";
  notification = ToNotification(event, kOwn);
  EXPECT_FALSE(notification.has_blackout_exited());
  EXPECT_EQ(notification.phase(), v1::MIGRATION_PHASE_BLACKOUT_EXITED);

  event = Event(MigrationEventName::kOfflineDone);
  event.additional_details_json = R"({"BlackoutDurationMilliseconds":9})";
  EXPECT_FALSE(ToNotification(event, kOwn).has_blackout_exited());
}

class NotifierTest : public ::testing::Test {
 protected:
  static v1::Notification Phase(v1::MigrationPhase phase) {
    v1::Notification notification;
    notification.set_phase(phase);
    return notification;
  }

  // Subscribes after `last_seen` and collects ids until the notifier closes.
  std::vector<uint32_t>& Subscribe(uint32_t last_seen) {
    auto& ids = seen_.emplace_back();
    Spawn(io_.get_executor(), Collect(last_seen, &ids));
    return ids;
  }

  Task<void> Collect(uint32_t last_seen, std::vector<uint32_t>* ids) {
    while (auto message = co_await notifier_.Next(last_seen)) {
      last_seen = message->message_id();
      ids->push_back(last_seen);
    }
  }

  asio::io_context io_;
  Notifier notifier_{io_.get_executor()};
  std::deque<std::vector<uint32_t>> seen_;
};

TEST_F(NotifierTest, EverySubscriberGetsEverythingInOrder) {
  auto& early = Subscribe(0);
  io_.poll();
  notifier_.Publish(Phase(v1::MIGRATION_PHASE_SETUP_DONE));
  io_.poll();
  notifier_.Publish(Phase(v1::MIGRATION_PHASE_BLACKOUT_STARTED));
  notifier_.Publish(Phase(v1::MIGRATION_PHASE_DONE));
  auto& late = Subscribe(0);
  auto& resumed = Subscribe(2);
  io_.poll();
  notifier_.Close();
  io_.run();
  EXPECT_EQ(early, (std::vector<uint32_t>{1, 2, 3}));
  EXPECT_EQ(late, (std::vector<uint32_t>{1, 2, 3}));
  EXPECT_EQ(resumed, (std::vector<uint32_t>{3}));
}

TEST_F(NotifierTest, PublishAfterCloseIsRefusedAndCloseIsIdempotent) {
  notifier_.Close();
  notifier_.Close();
  EXPECT_EQ(notifier_.Publish(Phase(v1::MIGRATION_PHASE_DONE)), 0u);
  auto& ids = Subscribe(0);
  io_.run();
  EXPECT_TRUE(ids.empty());
}

TEST_F(NotifierTest, ManyProgressMessagesNeverPushOutAPhase) {
  notifier_.Publish(Phase(v1::MIGRATION_PHASE_SETUP_DONE));
  for (int i = 0; i < 1000; ++i) {
    v1::Notification progress = Phase(v1::MIGRATION_PHASE_TRANSFER_IN_PROGRESS);
    progress.mutable_progress()->set_pass(i);
    notifier_.Publish(progress);
  }
  notifier_.Publish(Phase(v1::MIGRATION_PHASE_DONE));
  auto& ids = Subscribe(0);
  notifier_.Close();
  io_.run();
  EXPECT_EQ(ids.front(), 1u);
  EXPECT_EQ(ids.back(), 1002u);
  EXPECT_LT(ids.size(), 300u);
}

}  // namespace
}  // namespace ferry::migration
