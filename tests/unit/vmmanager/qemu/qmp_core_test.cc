#include "vmmanager/qemu/qmp_core.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

namespace ferry::vm {
namespace {

namespace json = boost::json;

constexpr char kGreeting[] = R"({"QMP": {"version": {}, "capabilities": ["oob"]}})"
                             "\r\n";
constexpr char kNegotiated[] = R"({"return": {}, "id": 0})"
                               "\r\n";

void MakeReady(QmpCore& core) {
  ASSERT_TRUE(core.Feed(kGreeting).ok());
  core.TakeOutput();
  ASSERT_TRUE(core.Feed(kNegotiated).ok());
  ASSERT_TRUE(core.ready());
}

TEST(QmpCoreTest, NegotiatesOutOfBandWhenOffered) {
  QmpCore core;
  ASSERT_TRUE(core.Feed(kGreeting).ok());
  const std::string output = core.TakeOutput();
  EXPECT_NE(output.find("qmp_capabilities"), std::string::npos);
  EXPECT_NE(output.find("\"oob\""), std::string::npos);
  EXPECT_FALSE(core.ready());
  ASSERT_TRUE(core.Feed(kNegotiated).ok());
  EXPECT_TRUE(core.ready());
  EXPECT_TRUE(core.out_of_band());
}

TEST(QmpCoreTest, AsksForNothingThatIsNotOffered) {
  QmpCore core;
  ASSERT_TRUE(core.Feed("{\"QMP\": {\"capabilities\": []}}\n").ok());
  EXPECT_EQ(core.TakeOutput().find("oob"), std::string::npos);
  ASSERT_TRUE(core.Feed(kNegotiated).ok());
  ASSERT_TRUE(core.Submit("yank", {}, QmpLane::kOutOfBand).ok());
  EXPECT_EQ(core.TakeOutput().find("exec-oob"), std::string::npos);
}

TEST(QmpCoreTest, TakesBytesInAnyCut) {
  QmpCore core;
  const std::string all = std::string(kGreeting) + kNegotiated +
                          R"({"event": "STOP", "timestamp": {"seconds": 5, "microseconds": 7}})"
                          "\r\n";
  for (const char byte : all) ASSERT_TRUE(core.Feed(std::string_view(&byte, 1)).ok());
  const std::vector<QmpEvent> events = core.TakeEvents();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].name, "STOP");
  EXPECT_EQ(events[0].wall_time, std::chrono::microseconds(5'000'007));
}

TEST(QmpCoreTest, ImpossibleTimestampsCountAsNone) {
  QmpCore core;
  MakeReady(core);
  for (const std::string stamp :
       {R"({"seconds": 9223372036854775807, "microseconds": 0})",
        R"({"seconds": -1, "microseconds": -1})", R"({"seconds": 1, "microseconds": 1000000})",
        R"({"seconds": 1e300, "microseconds": 0})", R"({"seconds": 18446744073709551615})", "7"}) {
    ASSERT_TRUE(core.Feed(R"({"event": "STOP", "timestamp": )" + stamp + "}\n").ok()) << stamp;
    const std::vector<QmpEvent> events = core.TakeEvents();
    ASSERT_EQ(events.size(), 1u);
    EXPECT_EQ(events[0].wall_time.count(), 0) << stamp;
  }
}

TEST(QmpCoreTest, GarbageIsToldInPlainText) {
  QmpCore core;
  const std::string message(core.Feed("\xff\xfe\x01{\n").message());
  EXPECT_NE(message.find("\\xff\\xfe\\x01{"), std::string::npos) << message;
}

TEST(QmpCoreTest, MatchesAnswersByIdInAnyOrderWithinOneRead) {
  QmpCore core;
  MakeReady(core);
  const uint64_t first = *core.Submit("query-status", {});
  const uint64_t second = *core.Submit("query-uuid", {});
  const std::string answers = "{\"return\": {\"n\": 2}, \"id\": " + std::to_string(second) +
                              "}\n{\"return\": {\"n\": 1}, \"id\": " + std::to_string(first) +
                              "}\n";
  ASSERT_TRUE(core.Feed(answers).ok());
  const std::vector<QmpReply> replies = core.TakeReplies();
  ASSERT_EQ(replies.size(), 2u);
  EXPECT_EQ(replies[0].id, second);
  EXPECT_EQ(replies[1].id, first);
  EXPECT_EQ(replies[1].result->at("n").as_int64(), 1);
  EXPECT_EQ(core.pending(), 0u);
}

TEST(QmpCoreTest, ErrorsNameTheCommandAndItsKind) {
  QmpCore core;
  MakeReady(core);
  const uint64_t id = *core.Submit("frobnicate", {});
  ASSERT_TRUE(core.Feed(R"({"error": {"class": "CommandNotFound", "desc": "no such"}, "id": )" +
                        std::to_string(id) + "}\n")
                  .ok());
  const std::vector<QmpReply> replies = core.TakeReplies();
  ASSERT_EQ(replies.size(), 1u);
  EXPECT_TRUE(absl::IsUnimplemented(replies[0].result.status()));
  EXPECT_EQ(replies[0].result.status().message(), "QEMU refused frobnicate: no such");
}

TEST(QmpCoreTest, DropsLateAnswers) {
  QmpCore core;
  MakeReady(core);
  const uint64_t id = *core.Submit("stop", {});
  core.Abandon(id);
  ASSERT_TRUE(core.Feed("{\"return\": {}, \"id\": " + std::to_string(id) + "}\n").ok());
  EXPECT_TRUE(core.TakeReplies().empty());
}

TEST(QmpCoreTest, RefusesOversizedMessagesAndFailsWhatIsPending) {
  QmpCore core(1024);
  MakeReady(core);
  ASSERT_TRUE(core.Submit("query-machines", {}).ok());
  const std::string flood(600, 'x');
  ASSERT_TRUE(core.Feed(flood).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(core.Feed(flood)));
  const std::vector<QmpReply> replies = core.TakeReplies();
  ASSERT_EQ(replies.size(), 1u);
  EXPECT_TRUE(absl::IsResourceExhausted(replies[0].result.status()));
  EXPECT_TRUE(core.failed());
  EXPECT_FALSE(core.Submit("stop", {}).ok());
}

TEST(QmpCoreTest, RefusesGarbage) {
  for (const char* garbage :
       {"hello\n", "[]\n", "{\"QMP\": 5}\n", "{}\n", "\xff\xfe\n", "{\"event\": \"X\"}\n"}) {
    QmpCore core;
    EXPECT_TRUE(absl::IsDataLoss(core.Feed(garbage))) << garbage;
  }
  for (const char* garbage : {"{\"event\": 1}\n", "{\"x\": 1}\n", "{\"return\": {}}\n",
                              "{\"return\": {}, \"id\": \"a\"}\n"}) {
    QmpCore core;
    MakeReady(core);
    EXPECT_TRUE(absl::IsDataLoss(core.Feed(garbage))) << garbage;
  }
}

TEST(QmpCoreTest, LossFailsAllPendingCommands) {
  QmpCore core;
  MakeReady(core);
  ASSERT_TRUE(core.Submit("stop", {}).ok());
  ASSERT_TRUE(core.Submit("cont", {}).ok());
  core.Fail(absl::UnavailableError("gone"));
  const std::vector<QmpReply> replies = core.TakeReplies();
  ASSERT_EQ(replies.size(), 2u);
  EXPECT_EQ(replies[0].result.status().message(), "stop: gone");
  EXPECT_TRUE(absl::IsUnavailable(core.Submit("stop", {}).status()));
}

TEST(QmpCoreTest, NeverLetsProgramsBeStarted) {
  QmpCore core;
  MakeReady(core);
  for (const char* text :
       {R"({"uri": "exec:cat"})", R"({"uri": "EXEC:cat"})",
        R"({"channels": [{"addr": {"transport": "exec", "args": ["/bin/sh"]}}]})"}) {
    const json::object arguments = json::parse(text).as_object();
    EXPECT_TRUE(absl::IsInvalidArgument(core.Submit("migrate", arguments).status())) << text;
  }
  EXPECT_FALSE(core.Submit("human-monitor-command", {}).ok());
  EXPECT_TRUE(core.TakeOutput().empty());
}

TEST(SteadyTimeOfTest, ConvertsAgeAndNeverLiesInTheFuture) {
  const auto wall = std::chrono::system_clock::time_point(std::chrono::seconds(100));
  const auto steady = std::chrono::steady_clock::time_point(std::chrono::seconds(10));
  EXPECT_EQ(SteadyTimeOf(std::chrono::seconds(97), wall, steady), steady - std::chrono::seconds(3));
  EXPECT_EQ(SteadyTimeOf(std::chrono::seconds(101), wall, steady), steady);
  EXPECT_EQ(SteadyTimeOf(std::chrono::seconds(0), wall, steady), steady) << "no stamp at all";
}

}  // namespace
}  // namespace ferry::vm
