#include "migration/session/notifier.h"

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <deque>
#include <memory>
#include <vector>

#include "vmmanager/store/fake_store.h"

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
  static v1::Notification Progress(uint64_t pass) {
    v1::Notification progress = Phase(v1::MIGRATION_PHASE_TRANSFER_IN_PROGRESS);
    progress.mutable_progress()->set_pass(pass);
    return progress;
  }

  // Subscribes after `last_seen` and collects ids until the notifier closes.
  std::vector<uint32_t>& Subscribe(uint32_t last_seen) {
    auto& ids = seen_.emplace_back();
    Spawn(io_.get_executor(), Collect(notifier_, last_seen, &ids));
    return ids;
  }

  static Task<void> Collect(std::shared_ptr<Notifier> notifier, uint32_t last_seen,
                            std::vector<uint32_t>* ids) {
    while (true) {
      auto messages = co_await notifier->Next(last_seen);
      EXPECT_TRUE(messages.ok()) << messages.status();
      if (!messages.ok() || messages->empty()) co_return;
      for (const auto& message : *messages) ids->push_back(message.message_id());
      last_seen = ids->back();
    }
  }

  // As a new daemon process finds it.
  void Restart() {
    notifier_ = std::make_shared<Notifier>(io_.get_executor(), store_, "s");
    Spawn(io_.get_executor(), Restore(notifier_));
    io_.restart();
    while (io_.poll() > 0) {
    }
    io_.restart();
  }
  // All that there is to do by now.
  void Run() {
    io_.restart();
    io_.run();
  }

  void EmptyStore() {
    Spawn(io_.get_executor(), Delete(&store_));
    Run();
  }
  static Task<void> Delete(vm::FakeStore* store) {
    EXPECT_TRUE((co_await store->DeleteSession("s")).ok());
  }
  static Task<void> Restore(std::shared_ptr<Notifier> notifier) {
    EXPECT_TRUE((co_await notifier->Restore()).ok());
  }

  asio::io_context io_;
  vm::FakeStore store_;
  std::shared_ptr<Notifier> notifier_ = std::make_shared<Notifier>(io_.get_executor(), store_, "s");
  std::deque<std::vector<uint32_t>> seen_;
};

TEST_F(NotifierTest, EverySubscriberGetsEverythingInOrder) {
  auto& early = Subscribe(0);
  io_.poll();
  notifier_->Publish(Phase(v1::MIGRATION_PHASE_SETUP_DONE));
  io_.poll();
  notifier_->Publish(Phase(v1::MIGRATION_PHASE_BLACKOUT_STARTED));
  notifier_->Publish(Phase(v1::MIGRATION_PHASE_DONE));
  auto& late = Subscribe(0);
  auto& resumed = Subscribe(2);
  io_.poll();
  notifier_->Close();
  io_.run();
  EXPECT_EQ(early, (std::vector<uint32_t>{1, 2, 3}));
  EXPECT_EQ(late, (std::vector<uint32_t>{1, 2, 3}));
  EXPECT_EQ(resumed, (std::vector<uint32_t>{3}));
}

TEST_F(NotifierTest, PublishAfterCloseIsRefusedAndCloseIsIdempotent) {
  notifier_->Close();
  notifier_->Close();
  EXPECT_EQ(notifier_->Publish(Phase(v1::MIGRATION_PHASE_DONE)), 0u);
  auto& ids = Subscribe(0);
  io_.run();
  EXPECT_TRUE(ids.empty());
}

TEST_F(NotifierTest, NumbersGoOnInAnotherProcess) {
  notifier_->Publish(Phase(v1::MIGRATION_PHASE_SETUP_DONE));
  notifier_->Publish(Phase(v1::MIGRATION_PHASE_BLACKOUT_STARTED));
  io_.run();
  Restart();
  EXPECT_EQ(notifier_->last_id(), 2u);
  EXPECT_TRUE(notifier_->told(v1::MIGRATION_PHASE_BLACKOUT_STARTED));
  EXPECT_FALSE(notifier_->told(v1::MIGRATION_PHASE_DONE));
  // Not with 3: somebody may have been given one of that number, and the host lost it.
  const uint32_t next = notifier_->Publish(Phase(v1::MIGRATION_PHASE_DONE));
  EXPECT_GT(next, 1000u);
  EXPECT_EQ(notifier_->last_id(), next);
  notifier_->Close();
  auto& all = Subscribe(0);
  auto& rest = Subscribe(1);
  auto& lost = Subscribe(3);
  io_.run();
  EXPECT_EQ(all, (std::vector<uint32_t>{1, 2, next}));
  EXPECT_EQ(rest, (std::vector<uint32_t>{2, next}));
  EXPECT_EQ(lost, (std::vector<uint32_t>{next}));
}

TEST_F(NotifierTest, NobodyGetsWhatIsNotKept) {
  auto& ids = Subscribe(0);
  notifier_->Publish(Phase(v1::MIGRATION_PHASE_SETUP_DONE));
  EXPECT_TRUE(ids.empty());
  io_.poll();
  EXPECT_EQ(ids.size(), 1u);
  // A process that dies now has told nothing that the next one does not know.
  Restart();
  EXPECT_EQ(notifier_->last_id(), ids.back());
}

TEST_F(NotifierTest, ALateSubscriberGetsAllOfALongTransfer) {
  auto& early = Subscribe(0);
  notifier_->Publish(Phase(v1::MIGRATION_PHASE_SETUP_DONE));
  for (int pass = 0; pass < 2000; ++pass) notifier_->Publish(Progress(pass));
  notifier_->Publish(Phase(v1::MIGRATION_PHASE_DONE));
  io_.poll();
  auto& late = Subscribe(0);
  notifier_->Close();
  io_.run();
  EXPECT_EQ(early.size(), 2002u);
  EXPECT_EQ(late, early);
}

TEST_F(NotifierTest, EndlessProgressNeverPushesOutAPhase) {
  notifier_->Publish(Phase(v1::MIGRATION_PHASE_SETUP_DONE));
  for (int pass = 0; pass < 12'000; ++pass) notifier_->Publish(Progress(pass));
  notifier_->Publish(Phase(v1::MIGRATION_PHASE_DONE));
  io_.run();
  Restart();
  notifier_->Close();
  auto& ids = Subscribe(0);
  io_.run();
  EXPECT_EQ(ids.front(), 1u);
  EXPECT_EQ(ids.back(), 12'002u);
  EXPECT_EQ(ids.size(), 10'002u);
}

TEST_F(NotifierTest, OnceItIsOverOnlyTheStoreHoldsTheMessages) {
  notifier_->Publish(Phase(v1::MIGRATION_PHASE_SETUP_DONE));
  {
    const Notifier::Subscription one(notifier_);
    notifier_->Publish(Phase(v1::MIGRATION_PHASE_DONE));
    notifier_->Close();
    Run();
    EmptyStore();
    auto& follower = Subscribe(1);
    Run();
    EXPECT_EQ(follower, (std::vector<uint32_t>{2}))
        << "whoever follows it does not wait for the store";
  }
  auto& late = Subscribe(1);
  Run();
  EXPECT_TRUE(late.empty());
}

TEST_F(NotifierTest, WhatTheStoreDidNotTakeStays) {
  store_.takes_notifications = false;
  notifier_->Publish(Phase(v1::MIGRATION_PHASE_SETUP_DONE));
  notifier_->Publish(Phase(v1::MIGRATION_PHASE_DONE));
  notifier_->Close();
  Run();
  auto& late = Subscribe(0);
  Run();
  EXPECT_EQ(late, (std::vector<uint32_t>{1, 2}));
}

TEST_F(NotifierTest, KnowsWhoFollowsTheSession) {
  EXPECT_FALSE(notifier_->has_subscribers());
  const auto before = Notifier::Clock::now();
  {
    const Notifier::Subscription one(notifier_);
    EXPECT_TRUE(notifier_->has_subscribers());
  }
  EXPECT_FALSE(notifier_->has_subscribers());
  EXPECT_GE(notifier_->last_unsubscribed(), before);
}

}  // namespace
}  // namespace ferry::migration
