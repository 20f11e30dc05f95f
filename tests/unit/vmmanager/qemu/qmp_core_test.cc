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

TEST(QmpCoreTest, OfAnAnticipatedCommandOnlyTheEndIsLeft) {
  QmpCore core;
  MakeReady(core);
  json::object arguments = {{"state", "pre-switchover"}};
  core.Anticipate("migrate-continue", arguments);
  core.Anticipate("migrate-continue", arguments);
  const std::string begun = core.TakeOutput();
  EXPECT_EQ(core.pending(), 0u);
  const uint64_t id = *core.Submit("migrate-continue", arguments);
  EXPECT_EQ(core.TakeOutput(), "}\n");
  const json::object whole = json::parse(begun + "}").as_object();
  EXPECT_EQ(whole.at("execute").as_string(), "migrate-continue");
  EXPECT_EQ(whole.at("arguments").as_object(), arguments);
  EXPECT_EQ(whole.at("id").to_number<uint64_t>(), id);
  ASSERT_TRUE(core.Feed("{\"return\": {}, \"id\": " + std::to_string(id) + "}\n").ok());
  ASSERT_EQ(core.TakeReplies().size(), 1u);
  // The next one is sent as ever.
  ASSERT_TRUE(core.Submit("migrate-continue", arguments).ok());
  EXPECT_NE(core.TakeOutput().find("migrate-continue"), std::string::npos);
}

TEST(QmpCoreTest, AnAnticipatedCommandThatDoesNotFollowIsRefused) {
  const json::object paused = {{"state", "pre-switchover"}};
  struct Other {
    const char* command;
    json::object arguments;
    QmpLane lane;
  };
  for (const Other& other : {Other{"query-status", {}, QmpLane::kInBand},
                             Other{"migrate-continue", {{"state", "device"}}, QmpLane::kInBand},
                             Other{"migrate-continue", paused, QmpLane::kOutOfBand}}) {
    QmpCore core;
    MakeReady(core);
    core.Anticipate("migrate-continue", paused);
    const std::string begun = core.TakeOutput();
    const uint64_t id = *core.Submit(other.command, other.arguments, other.lane);
    const std::string rest = core.TakeOutput();
    const size_t end = rest.find('\n');
    const json::object refused = json::parse(begun + rest.substr(0, end)).as_object();
    EXPECT_TRUE(refused.contains("refuse"));
    const json::object next = json::parse(rest.substr(end + 1)).as_object();
    EXPECT_EQ(next.at("id").to_number<uint64_t>(), id);
    // QEMU's word of the refusal is nobody's.
    const uint64_t unclaimed = refused.at("id").to_number<uint64_t>();
    EXPECT_NE(unclaimed, id);
    ASSERT_TRUE(core.Feed("{\"error\": {\"class\": \"GenericError\", \"desc\": \"x\"}, \"id\": " +
                          std::to_string(unclaimed) + "}\n")
                    .ok());
    EXPECT_TRUE(core.TakeReplies().empty());
    EXPECT_EQ(core.pending(), 1u);
  }
}

TEST(QmpCoreTest, WhatMayNotBeSentIsNotAnticipated) {
  QmpCore core;
  core.Anticipate("cont", {});
  EXPECT_EQ(core.TakeOutput(), "");
  MakeReady(core);
  core.Anticipate("migrate", {{"uri", "exec:cat"}});
  EXPECT_EQ(core.TakeOutput(), "");
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
