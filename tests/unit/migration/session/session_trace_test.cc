#include "migration/session/session_trace.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <vector>

namespace ferry::migration {
namespace {

namespace json = boost::json;
using Row = SessionTrace::Row;
using std::chrono::milliseconds;

std::vector<json::object> Events(const SessionTrace& trace, std::string_view kind) {
  std::vector<json::object> found;
  const json::value document = json::parse(trace.ToJson());
  for (const json::value& event : document.at("traceEvents").as_array()) {
    if (event.at("ph").as_string() == kind) found.push_back(event.as_object());
  }
  return found;
}

TEST(SessionTraceTest, NamesItsSideAndRows) {
  const SessionTrace trace("source host-a:1", true);
  const auto names = Events(trace, "M");
  ASSERT_EQ(names.size(), 6u);
  EXPECT_EQ(names[0].at("name").as_string(), "process_name");
  EXPECT_EQ(names[0].at("args").at("name").as_string(), "source host-a:1");
  EXPECT_NE(names[0].at("pid"), Events(SessionTrace("destination", false), "M")[0].at("pid"));
}

TEST(SessionTraceTest, SpansHaveBeginAndLengthInMicroseconds) {
  SessionTrace trace("s", true);
  const auto now = SessionTrace::Clock::now();
  trace.Span(Row::kJournal, "COMMIT", now, now + milliseconds(3), {{"epoch", 2}});
  trace.Span(Row::kJournal, "RELEASED", now + milliseconds(5), now + milliseconds(6));
  const auto spans = Events(trace, "X");
  ASSERT_EQ(spans.size(), 2u);
  EXPECT_EQ(spans[0].at("name").as_string(), "COMMIT");
  EXPECT_EQ(spans[0].at("args").at("epoch").as_int64(), 2);
  EXPECT_DOUBLE_EQ(spans[0].at("dur").as_double(), 3000);
  EXPECT_NEAR(spans[1].at("ts").as_double() - spans[0].at("ts").as_double(), 5000, 1);
}

TEST(SessionTraceTest, EnteringEndsWhatWasBefore) {
  SessionTrace trace("s", true);
  const auto now = SessionTrace::Clock::now();
  trace.Enter(Row::kSession, "TRANSFERRING", now);
  trace.Enter(Row::kSession, "TRANSFERRING", now + milliseconds(1));
  trace.Enter(Row::kSession, "FINALIZED", now + milliseconds(2));
  const auto spans = Events(trace, "X");
  ASSERT_EQ(spans.size(), 2u);  // the second is still open
  EXPECT_EQ(spans[0].at("name").as_string(), "TRANSFERRING");
  EXPECT_DOUBLE_EQ(spans[0].at("dur").as_double(), 2000);
  trace.Enter(Row::kSession, "", now + milliseconds(3));
  EXPECT_DOUBLE_EQ(Events(trace, "X")[1].at("dur").as_double(), 1000);
}

TEST(SessionTraceTest, IsBounded) {
  SessionTrace trace("s", true);
  const auto now = SessionTrace::Clock::now();
  for (size_t i = 0; i < SessionTrace::kMaxEvents + 7; ++i) trace.Instant(Row::kMemory, "i", now);
  EXPECT_EQ(Events(trace, "i").size(), SessionTrace::kMaxEvents);
  EXPECT_EQ(json::parse(trace.ToJson()).at("otherData").at("events_left_out").to_number<int>(), 7);
}

}  // namespace
}  // namespace ferry::migration
