#include "migration/session/session_trace.h"

#include <boost/json/serialize.hpp>
#include <utility>

namespace ferry::migration {
namespace {

namespace json = boost::json;
using Row = SessionTrace::Row;

constexpr std::pair<Row, const char*> kRows[] = {{Row::kSession, "session"},
                                                 {Row::kMemory, "memory passes"},
                                                 {Row::kJournal, "journal"},
                                                 {Row::kBlackout, "blackout"},
                                                 {Row::kNotifications, "notifications"}};

json::object Metadata(int process, int row, const char* what, std::string_view name) {
  return {{"ph", "M"},
          {"pid", process},
          {"tid", row},
          {"name", what},
          {"args", json::object{{"name", name}}}};
}

}  // namespace

SessionTrace::SessionTrace(std::string side, bool is_source)
    : side_(std::move(side)), process_(is_source ? 1 : 2) {}

double SessionTrace::Microseconds(Clock::time_point when) const {
  using Micros = std::chrono::duration<double, std::micro>;
  return Micros(wall_start_.time_since_epoch()).count() + Micros(when - start_).count();
}

void SessionTrace::Add(json::object event) {
  if (events_.size() < kMaxEvents) {
    events_.push_back(std::move(event));
  } else {
    ++left_out_;
  }
}

json::object SessionTrace::Event(Row row, std::string_view name, std::string_view kind,
                                 Clock::time_point when, json::object args) const {
  json::object event = {
      {"name", name},    {"cat", "migration"},           {"ph", kind},
      {"pid", process_}, {"tid", static_cast<int>(row)}, {"ts", Microseconds(when)}};
  if (!args.empty()) event["args"] = std::move(args);
  return event;
}

void SessionTrace::Span(Row row, std::string_view name, Clock::time_point begin,
                        Clock::time_point end, json::object args) {
  json::object event = Event(row, name, "X", begin, std::move(args));
  event["dur"] = std::chrono::duration<double, std::micro>(end - begin).count();
  Add(std::move(event));
}

void SessionTrace::Instant(Row row, std::string_view name, Clock::time_point when,
                           json::object args) {
  json::object event = Event(row, name, "i", when, std::move(args));
  event["s"] = "t";
  Add(std::move(event));
}

void SessionTrace::Counters(std::string_view name, Clock::time_point when, json::object values) {
  Add(Event(Row::kMemory, name, "C", when, std::move(values)));
}

void SessionTrace::Enter(Row row, std::string_view name, Clock::time_point when) {
  std::optional<Open>& open = open_[static_cast<int>(row)];
  if (open && open->name == name) return;
  if (open) Span(row, open->name, open->since, when);
  open.reset();
  if (!name.empty()) open = Open{std::string(name), when};
}

std::string SessionTrace::ToJson() const {
  json::array events;
  events.push_back(Metadata(process_, 0, "process_name", side_));
  for (const auto& [row, name] : kRows) {
    events.push_back(Metadata(process_, static_cast<int>(row), "thread_name", name));
  }
  events.insert(events.end(), events_.begin(), events_.end());
  const Clock::time_point now = Clock::now();
  for (const auto& [row, name] : kRows) {
    const std::optional<Open>& open = open_[static_cast<int>(row)];
    if (!open) continue;
    json::object event = Event(row, open->name, "X", open->since, {});
    event["dur"] = std::chrono::duration<double, std::micro>(now - open->since).count();
    events.push_back(std::move(event));
  }
  const json::object document = {{"traceEvents", std::move(events)},
                                 {"displayTimeUnit", "ms"},
                                 {"otherData", json::object{{"events_left_out", left_out_}}}};
  return json::serialize(document);
}

}  // namespace ferry::migration
