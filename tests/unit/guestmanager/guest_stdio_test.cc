#include "tests/unit/guestmanager/guest_fixture.h"

namespace ferry::guest {
namespace {

TEST_F(GuestTest, StdinToStdoutAndExit) {
  Ready();
  auto process = Exec();
  TestSink sink;
  auto attachment = Attach(*process, sink);
  ASSERT_TRUE(attachment->SendStdin(0, "hello").ok());
  ASSERT_TRUE(attachment->EndStdin(5).ok());
  Settle();
  EXPECT_EQ(agent_->processes[process->pid()].in.taken, "hello");
  EXPECT_TRUE(agent_->processes[process->pid()].in.ended);
  EXPECT_EQ(sink.taken, 5u);
  EXPECT_TRUE(sink.end_taken);
  agent_->Exit(process->pid(), 7);
  agent_->Write(process->pid(), false, "out");
  agent_->Write(process->pid(), true, "err");
  Settle();
  EXPECT_EQ(sink.out, "out");
  EXPECT_EQ(sink.err, "err");
  EXPECT_FALSE(sink.exited);
  agent_->EndOutput(process->pid());
  Settle();
  EXPECT_EQ(sink.ends, 2);
  EXPECT_EQ(sink.exited, (ExitStatus{ExitStatus::Kind::kCode, 7}));
  attachment->Acknowledge(Stream::kStdout, 3, true);
  attachment->Acknowledge(Stream::kStderr, 3, true);
  Settle();
  EXPECT_TRUE(agent_->processes[process->pid()].out.end_taken);
  attachment->ExitTaken();
  Settle();
  EXPECT_EQ(agent_->acknowledged, std::vector<uint32_t>{process->pid()});
  EXPECT_EQ(guest_->Find(process->pid()), nullptr);
  EXPECT_FALSE(sink.detached);
}

TEST_F(GuestTest, SignalExitIsToldApart) {
  Ready();
  auto process = Exec();
  agent_->Exit(process->pid(), 137, 9);
  Settle();
  EXPECT_EQ(process->exit_status(), (ExitStatus{ExitStatus::Kind::kSignal, 9}));
}

TEST_F(GuestTest, SignalToMissingProcessIsNotDelivered) {
  Ready();
  auto process = Exec();
  auto delivered = Start(process->Signal(15));
  EXPECT_TRUE(***delivered);
  agent_->answer_waits = false;
  agent_->Exit(process->pid(), 0);
  delivered = Start(process->Signal(15));
  ASSERT_TRUE((*delivered)->ok());
  EXPECT_FALSE(***delivered);
  EXPECT_EQ(agent_->signals, std::vector<uint32_t>{15});
}

TEST_F(GuestTest, OutputStaysInTheGuestWithoutAttacher) {
  Ready();
  auto process = Exec();
  agent_->Write(process->pid(), false, "kept");
  Settle();
  EXPECT_EQ(agent_->processes[process->pid()].out.hellos, 0);
  TestSink first;
  auto attachment = Attach(*process, first);
  EXPECT_EQ(first.out, "kept");
  attachment->Acknowledge(Stream::kStdout, 2, false);
  attachment.reset();
  Settle();
  agent_->Write(process->pid(), false, "more");
  Settle();
  EXPECT_EQ(first.out, "kept");
  TestSink second;
  attachment = Attach(*process, second);
  EXPECT_EQ(second.first, 2u);
  EXPECT_EQ(second.out, "ptmore");
}

TEST_F(GuestTest, OutputResumesAfterALostLinkWithoutDuplicates) {
  Ready();
  auto process = Exec();
  TestSink sink;
  auto attachment = Attach(*process, sink);
  agent_->Write(process->pid(), false, "abc");
  Settle();
  attachment->Acknowledge(Stream::kStdout, 1, false);
  Settle();
  transport_->Break();
  Settle();
  agent_->Write(process->pid(), false, "def");
  agent_->Connect();
  Settle();
  EXPECT_EQ(sink.out, "abcdef");
}

TEST_F(GuestTest, StdinRewindsToWhatTheGuestTook) {
  Ready();
  auto process = Exec();
  TestSink sink;
  auto attachment = Attach(*process, sink);
  ASSERT_TRUE(attachment->SendStdin(0, "abc").ok());
  Settle();
  transport_->Break();
  Settle();
  ASSERT_TRUE(attachment->SendStdin(3, "def").ok());
  agent_->Connect();
  Settle();
  EXPECT_EQ(sink.rewinds, std::vector<uint64_t>{3});
  ASSERT_TRUE(attachment->SendStdin(6, "late").ok());  // sent before the rewind was heard
  ASSERT_TRUE(attachment->SendStdin(3, "defg").ok());
  Settle();
  EXPECT_EQ(agent_->processes[process->pid()].in.taken, "abcdefg");
  EXPECT_TRUE(absl::IsInvalidArgument(attachment->SendStdin(9, "x")));
}

TEST_F(GuestTest, StdinTheGuestHoldsIsNeitherTakenNorSentAgain) {
  Ready();
  auto process = Exec();
  TestSink sink;
  auto attachment = Attach(*process, sink);
  agent_->ack_lag = 2;
  ASSERT_TRUE(attachment->SendStdin(0, "abcde").ok());
  Settle();
  EXPECT_EQ(sink.taken, 3u);
  transport_->Break();
  agent_->Connect();
  Settle();
  EXPECT_EQ(sink.taken, 3u);
  EXPECT_TRUE(sink.rewinds.empty());
  agent_->ack_lag = 0;
  ASSERT_TRUE(attachment->SendStdin(5, "f").ok());
  Settle();
  EXPECT_EQ(agent_->processes[process->pid()].in.taken, "abcdef");
  EXPECT_EQ(sink.taken, 6u);
}

TEST_F(GuestTest, StdinRunsAtMostOneWindowAhead) {
  Ready();
  auto process = Exec();
  TestSink sink;
  auto attachment = Attach(*process, sink);
  EXPECT_TRUE(absl::IsInvalidArgument(
      attachment->SendStdin(0, std::string(bridge::kStreamWindow + 1, 'x'))));
}

TEST_F(GuestTest, SlowSinkHoldsTheGuestBack) {
  Ready();
  auto process = Exec();
  TestSink sink;
  sink.open = false;
  auto attachment = Attach(*process, sink);
  agent_->Write(process->pid(), false, std::string(500'000, 'x'));
  Settle();
  EXPECT_EQ(sink.out.size(), 0u);
  sink.open = true;
  attachment->OnWritable();
  Settle();
  EXPECT_EQ(sink.out.size(), 500'000u);
}

TEST_F(GuestTest, OneInteractiveAttacherUnlessStolen) {
  Ready();
  auto process = Exec();
  TestSink a, b, c;
  auto first = Attach(*process, a, {.attachment_id = "a"});
  EXPECT_TRUE(absl::IsAlreadyExists(process->Attach({.attachment_id = "b"}, b).status()));
  auto again = Attach(*process, c, {.attachment_id = "a"});
  EXPECT_FALSE(a.detached);
  auto stolen = Attach(*process, b, {.steal = true, .attachment_id = "b"});
  ASSERT_TRUE(c.detached);
  EXPECT_TRUE(absl::IsAborted(*c.detached));
  EXPECT_FALSE(again->SendStdin(0, "x").ok());
  first.reset();
  again.reset();
  EXPECT_TRUE(process->attached());
  agent_->Write(process->pid(), false, "o");
  Settle();
  EXPECT_EQ(b.out, "o");
}

TEST_F(GuestTest, AttachBeforeWhatIsKeptIsOutOfRange) {
  Ready();
  auto process = Exec();
  TestSink sink;
  auto attachment = Attach(*process, sink, {.attachment_id = "a"});
  agent_->Write(process->pid(), false, "abc");
  Settle();
  attachment->Acknowledge(Stream::kStdout, 3, false);
  TestSink other;
  AttachOptions options{.attachment_id = "a"};
  options.stdout_position = StreamPosition{0, 1};
  EXPECT_TRUE(absl::IsOutOfRange(process->Attach(options, other).status()));
  options.stdout_position = StreamPosition{0, 3};
  EXPECT_TRUE(process->Attach(options, other).ok());
}

TEST_F(GuestTest, PlainPeerWorksWithoutResuming) {
  agent_->resumable = false;
  Ready();
  auto process = Exec();
  EXPECT_FALSE(agent_->processes[process->pid()].request.stdio.resumable);
  TestSink sink;
  auto attachment = Attach(*process, sink);
  ASSERT_TRUE(attachment->SendStdin(0, "in").ok());
  ASSERT_TRUE(attachment->EndStdin(2).ok());
  agent_->Write(process->pid(), false, "out");
  Settle();
  EXPECT_EQ(agent_->processes[process->pid()].in.taken, "in");
  EXPECT_TRUE(agent_->processes[process->pid()].in.ended);
  EXPECT_EQ(sink.taken, 2u);
  EXPECT_EQ(sink.out, "out");
  EXPECT_TRUE(absl::IsFailedPrecondition(guest_->Save().status()));
  transport_->Break();
  Settle();
  ASSERT_TRUE(sink.detached);
  EXPECT_TRUE(absl::IsUnavailable(*sink.detached));
}

TEST_F(GuestTest, AnAgentOfAFormerReleaseIsAskedOnlyForWhatItCan) {
  agent_->acknowledges = false;
  Ready();
  const auto run = [&](uint32_t code) {
    auto process = Exec();
    TestSink sink;
    auto attachment = Attach(*process, sink);
    agent_->EndOutput(process->pid());
    agent_->Exit(process->pid(), code);
    Settle();
    EXPECT_EQ(sink.exited, (ExitStatus{ExitStatus::Kind::kCode, code}));
    guest_->Forget(process->pid());
    Settle();
  };
  run(3);
  EXPECT_EQ(agent_->CountReceived(bridge::kAcknowledgeExit), 0);
  transport_->Break();
  Settle();
  // Each connection asks anew, so an agent that was brought up to date is used as it is.
  agent_->acknowledges = true;
  Ready();
  run(4);
  EXPECT_EQ(agent_->CountReceived(bridge::kAcknowledgeExit), 1);
}

TEST_F(GuestTest, PlainPeersEndIsToldToALaterAttacherToo) {
  agent_->resumable = false;
  Ready();
  auto process = Exec();
  TestSink first, second;
  auto attachment = Attach(*process, first);
  agent_->EndOutput(process->pid());
  Settle();
  EXPECT_EQ(first.ends, 2);
  attachment = nullptr;
  agent_->Exit(process->pid(), 1);
  attachment = Attach(*process, second);
  EXPECT_EQ(second.ends, 2);
  EXPECT_EQ(second.exited, (ExitStatus{ExitStatus::Kind::kCode, 1}));
}

TEST_F(GuestTest, WhoClosesAnUnopenedStreamIsAttachedAsBefore) {
  Ready();
  auto process = Exec(false, /*has_stdin=*/false);
  TestSink sink;
  auto attachment = Attach(*process, sink);
  EXPECT_TRUE(attachment->EndStdin(0).ok());
  agent_->EndOutput(process->pid());
  agent_->Exit(process->pid(), 3);
  Settle();
  EXPECT_EQ(sink.ends, 2);
  EXPECT_EQ(sink.exited, (ExitStatus{ExitStatus::Kind::kCode, 3}));
}

TEST_F(GuestTest, ClosingUnopenedStreamsIsHarmless) {
  Ready();
  auto process = Exec(false, /*has_stdin=*/false);
  TestSink sink;
  auto attachment = Attach(*process, sink);
  EXPECT_TRUE(attachment->EndStdin(0).ok());
  EXPECT_TRUE(attachment->EndStdin(7).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(attachment->SendStdin(0, "x")));
  guest_->Close(absl::UnavailableError("over"));
  guest_->Close(absl::UnavailableError("over"));
  Settle();
  EXPECT_TRUE(sink.detached);
}

}  // namespace
}  // namespace ferry::guest
