#pragma once

#include <cstdint>
#include <deque>
#include <optional>

#include "bridge/runtime/async.h"
#include "ferry/v1/migration.pb.h"
#include "vmmanager/schema/migration.h"

namespace ferry::migration {

// Converts a backend's event. A known result wins over the phase's default state; an empty origin
// falls back to the session's own side; blackout details go with BLACKOUT_EXITED only, and details
// that cannot be parsed are dropped while the event stays.
v1::Notification ToNotification(const schema::MigrationEvent& event,
                                v1::MigrationOrigin own_origin);

// Keeps a session's notifications, numbered from 1, so that a subscriber that comes late or comes
// back gets everything after the last one it saw. Publishing never waits for anyone. Of the
// progress notifications only the newest are kept; the others are never dropped.
class Notifier {
 public:
  explicit Notifier(Executor executor) : changed_(std::move(executor)) {}

  // Returns the message id; 0 if closed.
  uint32_t Publish(const v1::Notification& notification);

  // Nothing more comes; subscribers end once they have everything.
  void Close();
  bool closed() const { return closed_; }

  // The next message after `last_seen`, waiting for it if need be; nullopt when closed and drained.
  Task<std::optional<v1::NotificationsResponse>> Next(uint32_t last_seen);

  uint32_t last_id() const { return next_id_ - 1; }

 private:
  void DropOldProgress();

  AsyncEvent changed_;
  std::deque<v1::NotificationsResponse> kept_;
  size_t progress_kept_ = 0;
  uint32_t next_id_ = 1;
  bool closed_ = false;
};

}  // namespace ferry::migration
