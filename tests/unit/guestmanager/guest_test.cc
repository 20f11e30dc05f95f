#include "guestmanager/guest.h"

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <functional>

#include "guestmanager/container.h"
#include "guestmanager/fake_agent.h"

namespace ferry::guest {
namespace {

using bridge::FakeHostTransport;

struct TestSink : AttachSink {
  bool writable() const override { return open; }
  void OnOutput(Stream stream, StreamPosition position, std::string_view data) override {
    std::string& to = stream == Stream::kStderr ? err : out;
    if (stream == Stream::kStdout && to.empty()) first = position.offset;
    EXPECT_FALSE(exited);
    to += data;
  }
  void OnOutputEnd(Stream, uint64_t) override { ++ends; }
  void OnOutputDropped(Stream, uint64_t from, uint64_t to) override { dropped += to - from; }
  void OnStdinTaken(uint64_t offset, bool end) override {
    taken = offset;
    end_taken = end_taken || end;
  }
  void OnStdinRewind(uint64_t offset) override { rewinds.push_back(offset); }
  void OnStdinClosed() override { stdin_closed = true; }
  void OnExited(ExitStatus status) override {
    EXPECT_FALSE(exited);
    exited = status;
  }
  void OnDetached(const absl::Status& reason) override { detached = reason; }

  bool open = true;
  std::string out, err;
  uint64_t first = 0;
  int ends = 0;
  uint64_t dropped = 0;
  uint64_t taken = 0;
  bool end_taken = false;
  std::vector<uint64_t> rewinds;
  bool stdin_closed = false;
  std::optional<ExitStatus> exited;
  std::optional<absl::Status> detached;
};

class GuestTest : public ::testing::Test {
 protected:
  void SetUp() override {
    transport_ = std::make_unique<FakeHostTransport>(io_.get_executor());
    agent_ = std::make_shared<FakeAgent>(io_.get_executor(), *transport_);
    guest_ = Make(*transport_);
  }

  void TearDown() override {
    if (guest_) guest_->Close(absl::UnavailableError("the test is over"));
    if (moved_) moved_->Close(absl::UnavailableError("the test is over"));
    agent_->Stop();
    Settle();
  }

  std::shared_ptr<Guest> Make(FakeHostTransport& transport) {
    GuestOptions options;
    options.rpc_timeout = rpc_timeout_;
    options.spool_bytes = 1000;
    std::shared_ptr<Guest> guest = Guest::Create(io_.get_executor(), transport, options);
    EXPECT_TRUE(guest->Listen().ok());
    return guest;
  }

  // Runs until nothing can happen any more without the test.
  void Settle() {
    io_.restart();
    while (io_.poll() > 0) {
    }
  }

  void Ready() {
    agent_->Connect();
    Settle();
    ASSERT_TRUE(guest_->ready());
  }

  template <typename T>
  std::shared_ptr<std::optional<T>> Start(Task<T> task) {
    auto result = std::make_shared<std::optional<T>>();
    asio::co_spawn(io_, std::move(task), [result](std::exception_ptr failure, T value) {
      if (!failure) *result = std::move(value);
    });
    Settle();
    return result;
  }

  std::shared_ptr<Process> Exec(bool detached = false, bool has_stdin = true) {
    ProcessSpec spec;
    spec.command = {"cat", "-u"};
    spec.has_stdin = has_stdin;
    spec.detached = detached;
    auto process = Start(guest_->CreateProcess(spec));
    EXPECT_TRUE(process->has_value() && (*process)->ok());
    return **std::move(*process);
  }

  std::unique_ptr<Attachment> Attach(Process& process, TestSink& sink, AttachOptions options = {}) {
    auto attachment = process.Attach(options, sink);
    EXPECT_TRUE(attachment.ok()) << attachment.status();
    Settle();
    return attachment.ok() ? *std::move(attachment) : nullptr;
  }

  // A migration without a VM: the agent's memory goes on, the host's end is made anew.
  void Migrate() {
    guest_->Freeze();
    auto state = guest_->Save();
    ASSERT_TRUE(state.ok()) << state.status();
    moved_transport_ = std::make_unique<FakeHostTransport>(io_.get_executor());
    moved_ = Make(*moved_transport_);
    ASSERT_TRUE(moved_->Restore(*state).ok());
    transport_->Break();
    guest_->Close(absl::UnavailableError("moved"));
    Settle();
  }

  // Runs until `done`; the limit only ends a test that hangs.
  bool RunUntil(const std::function<bool()>& done) {
    io_.restart();
    while (!done()) {
      if (io_.run_one_for(std::chrono::seconds(30)) == 0) return false;
    }
    return true;
  }

  asio::io_context io_;
  milliseconds rpc_timeout_{300'000};
  std::unique_ptr<FakeHostTransport> transport_;
  std::unique_ptr<FakeHostTransport> moved_transport_;
  std::shared_ptr<FakeAgent> agent_;
  std::shared_ptr<Guest> guest_;
  std::shared_ptr<Guest> moved_;
};

TEST_F(GuestTest, ConnectNegotiatesFirstUnderIdZero) {
  auto ready = Start(guest_->WaitReady());
  EXPECT_FALSE(ready->has_value());
  Ready();
  ASSERT_TRUE(ready->has_value());
  EXPECT_TRUE((*ready)->ok());
  ASSERT_EQ(agent_->received.size(), 1u);
  EXPECT_EQ(agent_->received[0].type, bridge::kNegotiateProtocol);
  EXPECT_EQ(agent_->received[0].id, 0);
}

TEST_F(GuestTest, ReconnectRenegotiates) {
  Ready();
  transport_->Break();
  Settle();
  EXPECT_FALSE(guest_->ready());
  agent_->Connect();
  Settle();
  EXPECT_TRUE(guest_->ready());
  EXPECT_EQ(agent_->CountReceived(bridge::kNegotiateProtocol), 2);
}

TEST_F(GuestTest, OtherVersionIsRefused) {
  agent_->version = 3;
  agent_->Connect();
  Settle();
  EXPECT_FALSE(guest_->ready());
}

TEST_F(GuestTest, CallsWithoutAgentAreUnavailable) {
  auto answer = Start(guest_->GetProperties("{}"));
  ASSERT_TRUE(answer->has_value());
  EXPECT_TRUE(absl::IsUnavailable((*answer)->status()));
}

TEST_F(GuestTest, CallRoundTrip) {
  Ready();
  auto answer = Start(guest_->GetProperties("{}"));
  ASSERT_TRUE(answer->has_value() && (*answer)->ok());
  EXPECT_EQ(***answer, R"({"echo":true})");
  auto shutdown = Start(guest_->Shutdown(false));
  EXPECT_TRUE((*shutdown)->ok());
}

TEST_F(GuestTest, ExpiredCallTakesTheConnectionDown) {
  rpc_timeout_ = milliseconds(10);
  guest_->Close(absl::UnavailableError("made anew"));
  Settle();
  guest_ = Make(*transport_);
  Ready();
  agent_->silent = true;
  auto answer = Start(guest_->GetProperties("{}"));
  ASSERT_TRUE(RunUntil([&] { return answer->has_value(); }));
  EXPECT_TRUE(absl::IsDeadlineExceeded((*answer)->status()));
  EXPECT_FALSE(guest_->ready());
  agent_->Connect();
  EXPECT_TRUE(RunUntil([&] { return guest_->ready(); }));
}

TEST_F(GuestTest, CancelledCallerLeavesAndTheConnectionStays) {
  Ready();
  agent_->silent = true;
  asio::cancellation_signal cancel;
  bool ended = false;
  asio::co_spawn(
      io_, guest_->GetProperties("{}"),
      asio::bind_cancellation_slot(
          cancel.slot(), [&](std::exception_ptr, absl::StatusOr<std::string>) { ended = true; }));
  Settle();
  EXPECT_FALSE(ended);
  cancel.emit(asio::cancellation_type::terminal);
  Settle();
  EXPECT_TRUE(ended);
  agent_->silent = false;
  auto answer = Start(guest_->GetProperties("{}"));
  ASSERT_TRUE(answer->has_value());
  EXPECT_TRUE((*answer)->ok());
}

TEST_F(GuestTest, LostLinkFailsShortCallsAndKeepsWaits) {
  Ready();
  auto process = Exec();
  auto wait = Start(process->Wait());
  agent_->silent = true;
  auto answer = Start(guest_->GetProperties("{}"));
  EXPECT_FALSE(answer->has_value());
  transport_->Break();
  Settle();
  ASSERT_TRUE(answer->has_value());
  EXPECT_TRUE(absl::IsUnavailable((*answer)->status()));
  EXPECT_FALSE(wait->has_value());
  agent_->silent = false;
  agent_->Connect();
  Settle();
  agent_->Exit(process->pid(), 3);
  Settle();
  ASSERT_TRUE(wait->has_value() && (*wait)->ok());
  EXPECT_EQ(***wait, (ExitStatus{ExitStatus::Kind::kCode, 3}));
}

TEST_F(GuestTest, CloseEndsWaitsWithItsReason) {
  Ready();
  auto process = Exec();
  auto wait = Start(process->Wait());
  auto container = Start([](std::shared_ptr<Container> c) -> Task<bool> {
    co_await c->Wait();
    co_return true;
  }(guest_->OpenContainer("")));
  guest_->Close(absl::UnavailableError("qemu died"));
  Settle();
  ASSERT_TRUE(wait->has_value());
  EXPECT_EQ((*wait)->status().message(), "qemu died");
  EXPECT_TRUE(container->has_value());
  auto later = Start(guest_->GetProperties("{}"));
  EXPECT_EQ((*later)->status().message(), "qemu died");
}

TEST_F(GuestTest, ContainerExitNotificationEndsItsWait) {
  Ready();
  auto container = guest_->OpenContainer("c1");
  bridge::ContainerNotification notification;
  notification.container_id = "c1";
  notification.type = "UnexpectedExit";
  agent_->Send(bridge::kContainerNotification, 0, Encode(notification));
  notification.container_id = "never-opened";
  agent_->Send(bridge::kContainerNotification, 0, Encode(notification));
  Settle();
  EXPECT_EQ(container->exit_type(), "UnexpectedExit");
  EXPECT_TRUE(guest_->ready());
}

TEST_F(GuestTest, GarbageOnTheBridgeResetsIt) {
  Ready();
  agent_->SendRaw(std::string(16, '\xff'));
  Settle();
  EXPECT_FALSE(guest_->ready());
  agent_->Connect();
  Settle();
  EXPECT_TRUE(guest_->ready());
}

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

TEST_F(GuestTest, DetachedProcessIsSpooledAndWatched) {
  Ready();
  auto process = Exec(/*detached=*/true, /*has_stdin=*/false);
  agent_->Write(process->pid(), false, std::string(1500, 'a'));
  Settle();
  EXPECT_EQ(agent_->processes[process->pid()].out.base, 1500u);
  TestSink one, two;
  auto first = Attach(*process, one);
  auto second = Attach(*process, two, {.watch_only = true});
  EXPECT_EQ(one.first, 500u);
  EXPECT_EQ(one.out.size(), 1000u);
  EXPECT_EQ(two.out.size(), 1000u);
  // A follower that has not taken anything holds the guest back instead of losing bytes.
  agent_->Write(process->pid(), false, std::string(500, 'b'));
  Settle();
  EXPECT_EQ(one.out.size(), 1000u);
  first->Acknowledge(Stream::kStdout, 1500, false);
  second->Acknowledge(Stream::kStdout, 1500, false);
  Settle();
  EXPECT_EQ(one.out.size(), 1500u);
  agent_->EndOutput(process->pid());
  agent_->Exit(process->pid(), 0);
  Settle();
  EXPECT_EQ(two.exited, (ExitStatus{ExitStatus::Kind::kCode, 0}));
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

TEST_F(GuestTest, SavedStateContinuesElsewhereByteExact) {
  Ready();
  auto process = Exec();
  const uint32_t pid = process->pid();
  TestSink before;
  auto attachment = Attach(*process, before, {.attachment_id = "a"});
  ASSERT_TRUE(attachment->SendStdin(0, "abc").ok());
  agent_->Write(pid, false, "12345");
  Settle();
  attachment->Acknowledge(Stream::kStdout, 2, false);
  Migrate();
  EXPECT_TRUE(before.detached);
  process = moved_->Find(pid);
  ASSERT_TRUE(process);
  EXPECT_TRUE(moved_transport_->listening(bridge::kFirstStdioPort));
  TestSink after;
  AttachOptions options{.attachment_id = "a"};
  options.stdout_position = StreamPosition{0, 5};
  auto again = Attach(*process, after, options);  // before the agent has dialled
  EXPECT_EQ(again->stdin_position().offset, 3u);
  agent_->Write(pid, false, "678");
  agent_->Connect(moved_transport_.get());
  Settle();
  EXPECT_EQ(after.out, "678");
  ASSERT_TRUE(again->SendStdin(3, "def").ok());
  Settle();
  EXPECT_EQ(agent_->processes[pid].in.taken, "abcdef");
  agent_->EndOutput(pid);
  agent_->Exit(pid, 5);
  Settle();
  EXPECT_EQ(after.exited, (ExitStatus{ExitStatus::Kind::kCode, 5}));
}

TEST_F(GuestTest, ExitDuringTheBlackoutIsAskedForAnew) {
  Ready();
  const uint32_t pid = Exec()->pid();
  Migrate();
  agent_->Exit(pid, 4);  // its answer is lost with the link
  agent_->Connect(moved_transport_.get());
  Settle();
  EXPECT_EQ(moved_->Find(pid)->exit_status(), (ExitStatus{ExitStatus::Kind::kCode, 4}));
}

TEST_F(GuestTest, ForgottenProcessIsUnknownNeverZero) {
  Ready();
  const uint32_t pid = Exec()->pid();
  TestSink sink;
  Migrate();
  auto attachment = Attach(*moved_->Find(pid), sink);
  agent_->processes.erase(pid);
  agent_->Connect(moved_transport_.get());
  Settle();
  ASSERT_TRUE(sink.exited);
  EXPECT_EQ(sink.exited->kind, ExitStatus::Kind::kUnknown);
}

TEST_F(GuestTest, AdoptedWaitIsAnsweredUnderItsOldId) {
  Ready();
  const uint32_t pid = Exec()->pid();
  const int64_t id = guest_->Save()->processes[0].wait_call_id;
  EXPECT_NE(id, 0);
  Migrate();
  agent_->silent = true;
  agent_->Connect(moved_transport_.get());
  Settle();
  bridge::WaitForProcessResponse response;
  response.exit_code = 6;
  agent_->Send(bridge::ResponseType(bridge::kWaitForProcess), id, Encode(response));
  Settle();
  EXPECT_EQ(moved_->Find(pid)->exit_status(), (ExitStatus{ExitStatus::Kind::kCode, 6}));
}

TEST_F(GuestTest, RestoreRefusesAProcessWithoutWait) {
  GuestState state;
  state.processes.emplace_back();
  state.processes[0].pid = 42;
  absl::Status status = guest_->Restore(state);
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_NE(status.message().find("42"), absl::string_view::npos);
}

TEST_F(GuestTest, FloorsTravel) {
  Ready();
  Exec();
  auto saved = guest_->Save();
  EXPECT_EQ(saved->next_port, bridge::kFirstStdioPort + 3);
  Migrate();
  EXPECT_EQ(moved_->Save()->next_port, saved->next_port);
  EXPECT_GE(moved_->Save()->next_message_id, saved->next_message_id);
}

TEST_F(GuestTest, FreezeHoldsBothDirectionsAndUnfreezeGoesOn) {
  Ready();
  auto process = Exec();
  TestSink sink;
  auto attachment = Attach(*process, sink);
  guest_->Freeze();
  EXPECT_TRUE(transport_->paused());
  ASSERT_TRUE(attachment->SendStdin(0, "x").ok());
  agent_->Write(process->pid(), false, "y");
  Settle();
  EXPECT_EQ(sink.out, "");
  EXPECT_EQ(agent_->processes[process->pid()].in.taken, "");
  EXPECT_EQ(guest_->Save()->processes[0].std_in.taken.offset, 0u);
  guest_->Unfreeze();
  Settle();
  EXPECT_EQ(sink.out, "y");
  EXPECT_EQ(agent_->processes[process->pid()].in.taken, "x");
}

TEST_F(GuestTest, SpoolMovesWithTheState) {
  Ready();
  const uint32_t pid = Exec(/*detached=*/true)->pid();
  agent_->Write(pid, false, "spooled");
  Settle();
  Migrate();
  TestSink sink;
  auto attachment = Attach(*moved_->Find(pid), sink);
  EXPECT_EQ(sink.out, "spooled");
}

TEST_F(GuestTest, ClosingUnopenedStreamsIsHarmless) {
  Ready();
  auto process = Exec(false, /*has_stdin=*/false);
  TestSink sink;
  auto attachment = Attach(*process, sink);
  EXPECT_TRUE(absl::IsFailedPrecondition(attachment->EndStdin(0)));
  guest_->Close(absl::UnavailableError("over"));
  guest_->Close(absl::UnavailableError("over"));
  Settle();
  EXPECT_TRUE(sink.detached);
}

}  // namespace
}  // namespace ferry::guest
