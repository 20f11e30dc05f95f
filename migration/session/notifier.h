#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "ferry/v1/migration.pb.h"
#include "vmmanager/schema/migration.h"
#include "vmmanager/store/store.h"

namespace ferry::migration {

// Converts a backend's event. A known result wins over the phase's default state; an empty origin
// falls back to the session's own side; blackout details go with BLACKOUT_EXITED only, and details
// that cannot be parsed are dropped while the event stays.
v1::Notification ToNotification(const schema::MigrationEvent& event,
                                v1::MigrationOrigin own_origin);

// Keeps a session's notifications, numbered from 1, so that a subscriber that comes late or comes
// back gets everything after the last one it saw: also after the session has ended, and from
// another daemon process. Each goes to the store before any subscriber gets it. What a host lost
// that crashed, or could not write, may have been given to somebody: a later process leaves a gap,
// so that no number is ever used twice. Publishing waits for nobody. Only of progress are the
// oldest ones given up, in a session that tells a great deal of it.
//
// Shared by the session and its subscribers; the store must outlive them.
class Notifier : public std::enable_shared_from_this<Notifier> {
 public:
  using Clock = std::chrono::steady_clock;

  Notifier(Executor executor, vm::Store& store, std::string session_id);

  // Goes on after what the store has of the session. Before anything is published.
  Task<absl::Status> Restore();

  // Returns the message id; 0 if closed.
  uint32_t Publish(const v1::Notification& notification);

  // Nothing more comes; subscribers end once they have everything.
  void Close();
  bool closed() const { return closed_; }

  // Some of the messages after `last_seen`, in order; waits until there is one. Empty when closed
  // and drained.
  Task<absl::StatusOr<std::vector<v1::NotificationsResponse>>> Next(uint32_t last_seen);
  // Returns when a message of that id or a higher one has been published.
  Task<void> AwaitPublished(uint32_t id);
  // Returns when all that was published is in the store.
  Task<void> Flush();

  uint32_t last_id() const { return last_id_; }
  // Whether that phase has been told.
  bool told(v1::MigrationPhase phase) const { return told_.contains(phase); }

  // Stands for somebody who follows the session.
  class Subscription {
   public:
    explicit Subscription(std::shared_ptr<Notifier> notifier) : notifier_(std::move(notifier)) {
      ++notifier_->subscribers_;
    }
    ~Subscription() {
      --notifier_->subscribers_;
      notifier_->last_unsubscribed_ = Clock::now();
      notifier_->LetGoIfOver();
    }
    Subscription(const Subscription&) = delete;
    Subscription& operator=(const Subscription&) = delete;

   private:
    std::shared_ptr<Notifier> notifier_;
  };
  bool has_subscribers() const { return subscribers_ > 0; }
  Clock::time_point last_unsubscribed() const { return last_unsubscribed_; }

 private:
  using Messages = std::vector<v1::NotificationsResponse>;

  static Task<void> Write(std::shared_ptr<Notifier> self);
  void Note(const v1::NotificationsResponse& message);
  void Pulse();
  // Nothing more comes, and whoever asks later gets it from the store.
  void LetGoIfOver();
  Messages RecentAfter(uint32_t last_seen) const;
  Task<absl::StatusOr<Messages>> ReadAfter(uint32_t last_seen);

  const Executor executor_;
  vm::Store& store_;
  const std::string session_id_;
  AsyncEvent changed_;
  std::deque<v1::NotificationsResponse> pending_;  // not in the store yet
  std::deque<v1::NotificationsResponse> recent_;   // the newest of those that are
  std::deque<uint32_t> progress_;                  // ids in the store
  std::set<v1::MigrationPhase> told_;
  std::optional<google::protobuf::Timestamp> start_time_;  // of the first message
  uint32_t kept_id_ = 0;                                   // the newest in the store
  uint32_t last_id_ = 0;                                   // the newest that was published
  uint32_t next_id_ = 1;
  bool writing_ = false;
  bool closed_ = false;
  bool all_kept_ = true;  // the store took everything so far
  int subscribers_ = 0;
  Clock::time_point last_unsubscribed_;
};

}  // namespace ferry::migration
