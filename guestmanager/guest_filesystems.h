#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "guestmanager/guest_connection.h"

namespace ferry::guest {

// The guest's filesystems on disks, which can be frozen for a moment: then all that was written is
// on the disks, and whoever writes waits. The guest thaws them by itself when the time is over, and
// when the link to it is lost. Thread: the executor's only.
class GuestFilesystems {
 public:
  explicit GuestFilesystems(std::shared_ptr<GuestConnection> connection)
      : connection_(std::move(connection)) {}

  // UNIMPLEMENTED if the agent does not know of it, UNAVAILABLE while there is none.
  absl::Status CheckSupported() const;

  // Freezes all of them and returns how many, for at most `limit` from now. If that fails none
  // stays frozen; an agent that does not answer within the limit and a little more is hung up on,
  // so that it thaws them when it comes to itself.
  Task<absl::StatusOr<size_t>> Freeze(milliseconds limit);

  // OK if they were frozen until now. Otherwise they are or will be thawed all the same.
  Task<absl::Status> Thaw(milliseconds limit);

  // The same, and nobody waits.
  void ThawSoon();

 private:
  const std::shared_ptr<GuestConnection> connection_;
};

}  // namespace ferry::guest
