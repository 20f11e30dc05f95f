#include "tools/ferryctl/attach_core.h"

#include <gtest/gtest.h>

namespace ferry::ctl {
namespace {

using Kind = AttachEffect::Kind;

v1::AttachResponse Opened(uint64_t stdin_offset, uint32_t generation = 1) {
  v1::AttachResponse m;
  m.mutable_opened()->set_stdin_offset(stdin_offset);
  m.mutable_opened()->set_stdin_generation(generation);
  return m;
}

v1::AttachResponse Output(uint64_t offset, const std::string& data, uint32_t generation = 1,
                          v1::StdioStream stream = v1::STDIO_STREAM_STDOUT) {
  v1::AttachResponse m;
  m.mutable_output()->set_stream(stream);
  m.mutable_output()->set_generation(generation);
  m.mutable_output()->set_offset(offset);
  m.mutable_output()->set_data(data);
  return m;
}

v1::AttachResponse Taken(uint64_t offset, bool end = false) {
  v1::AttachResponse m;
  m.mutable_stdin_taken()->set_offset(offset);
  m.mutable_stdin_taken()->set_end_taken(end);
  return m;
}

v1::AttachResponse Rewind(uint64_t offset) {
  v1::AttachResponse m;
  m.mutable_stdin_rewind()->set_offset(offset);
  return m;
}

v1::AttachResponse End(uint64_t offset, v1::StdioStream stream = v1::STDIO_STREAM_STDOUT) {
  v1::AttachResponse m;
  m.mutable_output_end()->set_stream(stream);
  m.mutable_output_end()->set_offset(offset);
  return m;
}

v1::AttachResponse Exited(uint32_t code) {
  v1::AttachResponse m;
  m.mutable_exited()->set_code(code);
  return m;
}

class AttachCoreTest : public testing::Test {
 protected:
  void Connect(uint64_t stdin_offset = 0, uint32_t generation = 1) {
    core.Open();
    ASSERT_EQ(core.OnMessage(Opened(stdin_offset, generation)).kind, Kind::kOpened);
  }

  // The text that would be written; the writing is done at once.
  std::string Receive(v1::AttachResponse message) {
    AttachEffect effect = core.OnMessage(std::move(message));
    if (effect.kind != Kind::kWrite) return "";
    core.Written(effect.stream);
    return effect.text;
  }

  // What is sent as input, "offset:data" or "end:offset" each.
  std::string SentStdin() {
    std::string text;
    for (const v1::AttachRequest& r : core.TakeRequests(false)) {
      if (r.has_stdin_data()) {
        text += std::to_string(r.stdin_data().offset()) + ":" + r.stdin_data().data() + " ";
      }
      if (r.has_stdin_end()) text += "end:" + std::to_string(r.stdin_end().offset()) + " ";
    }
    return text;
  }

  AttachCore core{"web", 7, "me", true, std::nullopt};
};

TEST_F(AttachCoreTest, OpensWithoutPositionsThenWithThem) {
  v1::AttachRequest first = core.Open();
  EXPECT_EQ(first.open().vm(), "web");
  EXPECT_EQ(first.open().process_id(), 7u);
  EXPECT_TRUE(first.open().steal());
  EXPECT_FALSE(first.open().has_stdout_position());
  core.OnMessage(Opened(0));
  Receive(Output(100, "abc", 3));
  v1::AttachRequest second = core.Open();
  EXPECT_EQ(second.open().attachment_id(), first.open().attachment_id());
  EXPECT_FALSE(second.open().steal());
  EXPECT_EQ(second.open().stdout_position().offset(), 103u);
  EXPECT_EQ(second.open().stdout_position().generation(), 3u);
  EXPECT_FALSE(second.open().has_stderr_position());
}

TEST_F(AttachCoreTest, DropsRepeatedBytesAndTrimsOverlaps) {
  Connect();
  EXPECT_EQ(Receive(Output(0, "abcd")), "abcd");
  EXPECT_EQ(Receive(Output(0, "abcd")), "");
  EXPECT_EQ(Receive(Output(2, "cdef")), "ef");
  EXPECT_EQ(Receive(Output(6, "g")), "g");
}

TEST_F(AttachCoreTest, AGapBreaksTheConnectionAndNothingIsWritten) {
  Connect();
  Receive(Output(0, "ab"));
  EXPECT_EQ(core.OnMessage(Output(3, "d")).kind, Kind::kBroken);
  EXPECT_EQ(core.Open().open().stdout_position().offset(), 2u);
}

TEST_F(AttachCoreTest, ANewGenerationIsNewBytesAndAnOldOneIsIgnored) {
  Connect();
  EXPECT_EQ(Receive(Output(0, "abc", 1)), "abc");
  EXPECT_EQ(Receive(Output(1, "bc", 2)), "bc");
  EXPECT_EQ(Receive(Output(3, "zzz", 1)), "");
  EXPECT_EQ(Receive(Output(3, "d", 2)), "d");
}

TEST_F(AttachCoreTest, AnEarlierGenerationThatIsServedAnewIsNewBytes) {
  Connect();
  EXPECT_EQ(Receive(Output(0, "abc", 2)), "abc");
  core.Open();
  Connect();
  EXPECT_EQ(Receive(Output(1, "xyz", 1)), "xyz");
  EXPECT_EQ(Receive(Output(4, "d", 1)), "d");
}

TEST_F(AttachCoreTest, StreamsAreIndependent) {
  Connect();
  EXPECT_EQ(Receive(Output(0, "out")), "out");
  EXPECT_EQ(Receive(Output(0, "err", 1, v1::STDIO_STREAM_STDERR)), "err");
  EXPECT_EQ(core.OnMessage(Output(0, "x", 1, v1::STDIO_STREAM_STDIN)).kind, Kind::kBroken);
}

TEST_F(AttachCoreTest, AcknowledgesOnlyWhatIsWrittenOut) {
  Connect();
  AttachEffect effect = core.OnMessage(Output(0, std::string(kAckEvery, 'x')));
  EXPECT_TRUE(core.TakeRequests(true).empty());
  core.Written(effect.stream);
  auto requests = core.TakeRequests(false);
  ASSERT_EQ(requests.size(), 1u);
  EXPECT_EQ(requests[0].ack().offset(), kAckEvery);
  EXPECT_TRUE(core.TakeRequests(true).empty());
}

TEST_F(AttachCoreTest, SmallOutputIsAcknowledgedWhenIdle) {
  Connect();
  Receive(Output(0, "abc"));
  EXPECT_TRUE(core.TakeRequests(false).empty());
  EXPECT_TRUE(core.ack_pending());
  auto requests = core.TakeRequests(true);
  ASSERT_EQ(requests.size(), 1u);
  EXPECT_EQ(requests[0].ack().offset(), 3u);
  EXPECT_FALSE(core.ack_pending());
}

TEST_F(AttachCoreTest, SendsInputFromWhereTheProcessStands) {
  core.AddStdin("hello");
  EXPECT_EQ(SentStdin(), "");
  Connect(1000);
  EXPECT_EQ(SentStdin(), "1000:hello ");
  core.EndStdin();
  EXPECT_EQ(SentStdin(), "end:1005 ");
}

TEST_F(AttachCoreTest, KeepsInputUntilItIsTakenAndSendsTheRestAgain) {
  Connect();
  core.AddStdin("abcdef");
  core.EndStdin();
  EXPECT_EQ(SentStdin(), "0:abcdef end:6 ");
  core.OnMessage(Taken(2));
  EXPECT_EQ(core.stdin_unacknowledged(), 4u);
  Connect(4);  // two more were taken, but their message was lost
  EXPECT_EQ(SentStdin(), "4:ef end:6 ");
}

TEST_F(AttachCoreTest, AcknowledgesAgainWhereItGoesOn) {
  Connect();
  Receive(Output(0, "abc"));
  ASSERT_EQ(core.TakeRequests(true).size(), 1u);
  Connect();  // to a host that never heard of it
  ASSERT_TRUE(core.ack_pending());
  const auto requests = core.TakeRequests(true);
  ASSERT_EQ(requests.size(), 1u);
  EXPECT_EQ(requests[0].ack().offset(), 3u);
}

TEST_F(AttachCoreTest, RewindSendsAgain) {
  Connect();
  core.AddStdin("abcdef");
  SentStdin();
  core.OnMessage(Taken(1));
  EXPECT_EQ(core.OnMessage(Rewind(3)).kind, Kind::kNone);
  EXPECT_EQ(SentStdin(), "3:def ");
  EXPECT_EQ(core.OnMessage(Rewind(0)).kind, Kind::kLost);
  EXPECT_EQ(core.OnMessage(Rewind(99)).kind, Kind::kBroken);
}

TEST_F(AttachCoreTest, ADaemonThatKnowsLessIsToldWhatTheProcessHasNotTaken) {
  Connect();
  core.AddStdin("abcdef");
  SentStdin();
  core.OnMessage(Taken(3));
  Connect(1);
  EXPECT_EQ(SentStdin(), "3:def ");
  core.OnMessage(Taken(2));
  EXPECT_EQ(core.OnMessage(Rewind(4)).kind, Kind::kNone);
  EXPECT_EQ(SentStdin(), "4:ef ");
  EXPECT_EQ(core.OnMessage(Rewind(2)).kind, Kind::kLost);
}

TEST_F(AttachCoreTest, WhatWasSentBeforeTheConnectionBrokeCounts) {
  Connect();
  core.AddStdin("abcdef");
  SentStdin();
  Connect(0);
  // The guest has all of it already, before anything went over this connection.
  EXPECT_EQ(core.OnMessage(Rewind(6)).kind, Kind::kNone);
  EXPECT_EQ(core.OnMessage(Taken(6)).kind, Kind::kNone);
  EXPECT_EQ(SentStdin(), "");
  EXPECT_EQ(core.stdin_unacknowledged(), 0u);
  Connect(6);
  core.AddStdin("gh");
  EXPECT_EQ(core.OnMessage(Taken(9)).kind, Kind::kBroken);
}

TEST_F(AttachCoreTest, ANewInputGenerationStartsOver) {
  Connect();
  core.AddStdin("abc");
  SentStdin();
  core.OnMessage(Taken(2));
  Connect(0, 2);
  EXPECT_EQ(SentStdin(), "0:c ");
}

TEST_F(AttachCoreTest, AnEarlierInputGenerationIsTheSameStream) {
  Connect(0, 3);
  core.AddStdin("abc");
  SentStdin();
  core.OnMessage(Taken(1));
  // The guest had taken more than was said of it.
  Connect(2, 1);
  EXPECT_EQ(SentStdin(), "2:c ");
  Connect(2, 3);
  EXPECT_EQ(SentStdin(), "2:c ");
}

TEST_F(AttachCoreTest, TheWindowBoundsInput) {
  Connect();
  EXPECT_EQ(core.StdinRoom(), kStdinWindow);
  core.AddStdin(std::string(kStdinWindow, 'x'));
  EXPECT_EQ(core.StdinRoom(), 0u);
  core.TakeRequests(false);
  core.OnMessage(Taken(100));
  EXPECT_EQ(core.StdinRoom(), 100u);
  EXPECT_EQ(core.OnMessage(Taken(kStdinWindow + 1)).kind, Kind::kBroken);
}

TEST_F(AttachCoreTest, ClosedStdinEndsInput) {
  Connect();
  core.AddStdin("abc");
  v1::AttachResponse closed;
  closed.mutable_stdin_closed();
  core.OnMessage(closed);
  EXPECT_TRUE(core.stdin_over());
  EXPECT_EQ(core.StdinRoom(), 0u);
  EXPECT_EQ(SentStdin(), "");
}

TEST_F(AttachCoreTest, TheExitIsTakenOnceAfterTheEnds) {
  Connect();
  Receive(Output(0, "bye"));
  core.OnMessage(End(3));
  core.OnMessage(End(0, v1::STDIO_STREAM_STDERR));
  EXPECT_EQ(core.OnMessage(Exited(3)).kind, Kind::kExited);
  auto requests = core.TakeRequests(false);
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_TRUE(requests[0].ack().end_taken());
  EXPECT_EQ(requests[0].ack().offset(), 3u);
  EXPECT_TRUE(requests[1].ack().end_taken());
  EXPECT_TRUE(requests[2].has_exit_taken());
  EXPECT_EQ(core.exit_status()->code(), 3u);
  EXPECT_EQ(core.OnMessage(Exited(4)).kind, Kind::kNone);
  EXPECT_TRUE(core.TakeRequests(true).empty());
}

TEST_F(AttachCoreTest, AnEndBeyondWhatCameIsAGap) {
  Connect();
  Receive(Output(0, "ab"));
  EXPECT_EQ(core.OnMessage(End(5)).kind, Kind::kBroken);
}

TEST_F(AttachCoreTest, ReconnectedAcknowledgesEndsAgain) {
  Connect();
  Receive(Output(0, "ab"));
  core.OnMessage(End(2));
  EXPECT_EQ(core.TakeRequests(false).size(), 1u);
  Connect();
  EXPECT_EQ(core.TakeRequests(false).size(), 1u);
}

TEST_F(AttachCoreTest, DroppedOutputIsToldAndSkipped) {
  Connect();
  Receive(Output(0, "ab"));
  v1::AttachResponse dropped;
  dropped.mutable_output_dropped()->set_stream(v1::STDIO_STREAM_STDOUT);
  dropped.mutable_output_dropped()->set_from(1);
  dropped.mutable_output_dropped()->set_to(10);
  AttachEffect effect = core.OnMessage(dropped);
  EXPECT_EQ(effect.kind, Kind::kNotice);
  EXPECT_EQ(effect.text.substr(0, 7), "8 bytes");
  EXPECT_EQ(Receive(Output(10, "k")), "k");
}

TEST_F(AttachCoreTest, ReportsMigrationsAndDetachment) {
  Connect();
  v1::AttachResponse m;
  m.mutable_migration_opened()->set_destination("b:1");
  EXPECT_EQ(core.OnMessage(m).text, "b:1");
  m.mutable_moved()->set_destination("b:2");
  AttachEffect moved = core.OnMessage(m);
  EXPECT_EQ(moved.kind, Kind::kMoved);
  EXPECT_EQ(moved.text, "b:2");
  m.mutable_migration_closed();
  EXPECT_EQ(core.OnMessage(m).kind, Kind::kMigrationClosed);
  m.mutable_detached()->set_reason("stolen");
  EXPECT_EQ(core.OnMessage(m).kind, Kind::kDetached);
}

TEST_F(AttachCoreTest, NothingCountsBeforeOpened) {
  core.Open();
  EXPECT_EQ(core.OnMessage(Output(0, "x")).kind, Kind::kBroken);
  EXPECT_TRUE(core.TakeRequests(true).empty());
}

TEST_F(AttachCoreTest, TellsHowFarItHasWritten) {
  EXPECT_FALSE(core.written().std_out.has_value());
  Connect();
  Receive(Output(10, "written", 3));
  core.OnMessage(Output(17, "not yet", 3));
  ASSERT_TRUE(core.written().std_out.has_value());
  EXPECT_EQ(core.written().std_out->offset(), 17u);
  EXPECT_EQ(core.written().std_out->generation(), 3u);
  EXPECT_FALSE(core.written().std_err.has_value());
}

TEST_F(AttachCoreTest, AWatcherIsNotToldWhatStandsBeforeItsPosition) {
  WatchFrom from;
  from.std_out.emplace().set_offset(100);
  from.std_out->set_generation(1);
  AttachCore watcher("web", 7, "me", false, from);
  watcher.Open();
  watcher.OnMessage(Opened(0));
  EXPECT_EQ(watcher.OnMessage(Output(40, std::string(50, 'x'))).kind, Kind::kNone);
  const AttachEffect effect = watcher.OnMessage(Output(90, "0123456789abc"));
  EXPECT_EQ(effect.kind, Kind::kWrite);
  EXPECT_EQ(effect.text, "abc");
  EXPECT_EQ(effect.offset, 100u);
}

TEST_F(AttachCoreTest, AWatcherBeginsWhereItIsToAndTakesNothing) {
  WatchFrom from;
  from.std_out.emplace().set_offset(100);
  from.std_out->set_generation(2);
  AttachCore watcher("web", 7, "me", false, from);
  const v1::AttachRequest open = watcher.Open();
  EXPECT_TRUE(open.open().no_stdin());
  EXPECT_EQ(open.open().stdout_position().offset(), 100u);
  EXPECT_EQ(open.open().stdout_position().generation(), 2u);
  EXPECT_FALSE(open.open().has_stderr_position());
  v1::AttachResponse message;
  message.mutable_opened();
  watcher.OnMessage(message);
  message.mutable_exited()->set_code(3);
  EXPECT_EQ(watcher.OnMessage(message).kind, AttachEffect::Kind::kExited);
  for (const v1::AttachRequest& request : watcher.TakeRequests(true)) {
    EXPECT_FALSE(request.has_exit_taken());
  }
}

}  // namespace
}  // namespace ferry::ctl
