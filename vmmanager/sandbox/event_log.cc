#include "vmmanager/sandbox/event_log.h"

#include <spdlog/spdlog.h>

#include "bridge/runtime/unix_time.h"

namespace ferry::vm {

EventLog::EventLog(Executor executor, Store& store)
    : executor_(executor),
      store_(store),
      queue_(std::make_shared<AsyncQueue<EventRow>>(executor)),
      stored_(executor),
      drained_(executor) {
  Spawn(executor_, WriteEvents(queue_, this));
}

void EventLog::Publish(std::string type, std::string subject, Attributes attributes) {
  EventRow event;
  event.unix_ms = NowUnixMs();
  event.type = std::move(type);
  event.subject = std::move(subject);
  event.attributes = std::move(attributes);
  queue_->Push(std::move(event));
}

Task<void> EventLog::WriteEvents(std::shared_ptr<AsyncQueue<EventRow>> queue, EventLog* log) {
  while (auto event = co_await queue->Pop()) {
    auto stored = co_await log->store_.AppendEvent(*event);
    if (!stored.ok()) {
      spdlog::error("event {} of {} could not be stored: {}", event->type, event->subject,
                    stored.status().ToString());
      continue;
    }
    log->last_id_ = stored->id;
    log->stored_.Set();
    log->stored_.Reset();
  }
  log->drained_.Set();
}

Task<absl::StatusOr<std::vector<EventRow>>> EventLog::Read(uint64_t since, size_t limit,
                                                           bool wait) {
  while (true) {
    auto events = co_await store_.ReadEvents(since, limit);
    if (!events.ok() || !events->empty() || !wait || closed_) co_return events;
    // An event stored between the read and here has already raised last_id_.
    if (last_id_ > since) continue;
    co_await stored_.Wait();
  }
}

Task<void> EventLog::Close() {
  closed_ = true;
  queue_->Close();
  co_await drained_.Wait();
  stored_.Set();
}

}  // namespace ferry::vm
