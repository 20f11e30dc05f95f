#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "vmmanager/store/store.h"

namespace ferry::vm {

// Everything that happens on this host, in order and durable: watch commands, tests and metrics
// read the same stream. Publishing does not wait; a writer task stores the events one after
// another.
class EventLog {
 public:
  using Attributes = std::vector<std::pair<std::string, std::string>>;

  // `store` must outlive the log.
  EventLog(Executor executor, Store& store);

  void Publish(std::string type, std::string subject, Attributes attributes = {});

  // Events after `since`, oldest first, at most `limit`; waits for one if `wait` is set and there
  // is none yet.
  Task<absl::StatusOr<std::vector<EventRow>>> Read(uint64_t since, size_t limit, bool wait);

  // Stores what is queued and ends the writer; wakes waiting readers with what there is.
  Task<void> Close();

 private:
  static Task<void> WriteEvents(std::shared_ptr<AsyncQueue<EventRow>> queue, EventLog* log);

  Executor executor_;
  Store& store_;
  std::shared_ptr<AsyncQueue<EventRow>> queue_;
  AsyncEvent stored_;
  AsyncEvent drained_;
  uint64_t last_id_ = 0;
  bool closed_ = false;
};

}  // namespace ferry::vm
