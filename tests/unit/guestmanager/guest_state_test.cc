#include "absl/strings/str_cat.h"
#include "tests/unit/guestmanager/guest_fixture.h"

namespace ferry::guest {
namespace {

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

TEST_F(GuestTest, RestoredStreamsGoOnBeforeTheAgentHasNegotiatedAgain) {
  Ready();
  auto process = Exec();
  TestSink before;
  auto attachment = Attach(*process, before);
  agent_->Write(process->pid(), false, "abc");
  Settle();
  attachment->Acknowledge(Stream::kStdout, 3, false);
  Settle();
  Migrate();
  TestSink after;
  auto moved = Attach(*moved_->Find(process->pid()), after);
  agent_->Write(process->pid(), false, "def");
  agent_->ConnectTo([this](uint32_t port) -> absl::StatusOr<std::unique_ptr<bridge::Connection>> {
    if (port == bridge::kBridgePort) return absl::UnavailableError("not yet");
    return moved_transport_->Dial(port);
  });
  Settle();
  EXPECT_FALSE(moved_->ready());
  EXPECT_EQ(after.first, 3u);
  EXPECT_EQ(after.out, "def");
}

class StaleInputTest : public GuestTest {
 protected:
  // A process that has taken "abc" from client "a", where it was moved with what had been recorded
  // before: nothing taken, and `last` as the last client.
  std::shared_ptr<Process> MoveWithStaleRecord(const std::string& last) {
    Ready();
    auto process = Exec();
    GuestState stale = *guest_->Save();
    stale.processes[0].attachment_id = last;
    TestSink sink;
    auto attachment = Attach(*process, sink, {.attachment_id = "a"});
    EXPECT_TRUE(attachment->SendStdin(0, "abc").ok());
    Settle();
    EXPECT_EQ(sink.taken, 3u);
    Migrate(stale);
    return moved_->Find(process->pid());
  }
};

TEST_F(StaleInputTest, AClientThatKnowsMoreThanWhatWasRestoredLosesNoInput) {
  auto process = MoveWithStaleRecord("");
  const uint32_t pid = process->pid();
  TestSink after;
  auto again = Attach(*process, after, {.attachment_id = "a"});
  // The agent has not dialled; the daemon believes that nothing was taken yet.
  EXPECT_EQ(again->stdin_position().offset, 0u);
  ASSERT_TRUE(again->SendStdin(3, "def").ok());
  agent_->Connect(moved_transport_.get());
  Settle();
  ASSERT_THAT(after.rewinds, testing::ElementsAre(3));
  ASSERT_TRUE(again->SendStdin(3, "def").ok());
  Settle();
  EXPECT_EQ(agent_->processes[pid].in.taken, "abcdef");
  EXPECT_EQ(after.taken, 6u);
}

TEST_F(StaleInputTest, AnotherClientWaitsUntilTheGuestHasSaidWhatItHolds) {
  auto process = MoveWithStaleRecord("a");
  int known = 0;
  for (const char* client : {"a", "b", ""}) {
    asio::co_spawn(io_.get_executor(), process->AwaitInput(client),
                   [&known](const std::exception_ptr& failure) {
                     EXPECT_FALSE(failure);
                     ++known;
                   });
  }
  Settle();
  EXPECT_EQ(known, 1) << "only the client that comes back knows";
  agent_->Connect(moved_transport_.get());
  Settle();
  EXPECT_EQ(known, 3);
  TestSink after;
  auto other = Attach(*process, after, {.attachment_id = "b"});
  EXPECT_EQ(other->stdin_position().offset, 3u);
  ASSERT_TRUE(other->SendStdin(3, "def").ok());
  Settle();
  EXPECT_EQ(agent_->processes[process->pid()].in.taken, "abcdef");
}

TEST_F(GuestTest, WhoAttachedLastAndTheEndOfItsInputAreWorthARecord) {
  Ready();
  auto process = Exec();
  const uint32_t pid = process->pid();
  std::vector<GuestState> records;
  guest_->set_on_change([&] { records.push_back(*guest_->Save()); });
  TestSink sink;
  auto attachment = Attach(*process, sink, {.attachment_id = "a"});
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0].processes[0].attachment_id, "a");
  attachment.reset();
  attachment = Attach(*process, sink, {.attachment_id = "a"});
  ASSERT_TRUE(attachment->SendStdin(0, "abc").ok());
  Settle();
  EXPECT_EQ(records.size(), 1u) << "what the last client knows by itself";
  ASSERT_TRUE(attachment->EndStdin(3).ok());
  Settle();
  ASSERT_TRUE(sink.end_taken);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_TRUE(records[1].processes[0].std_in.ended);
  // The agent will not say it again.
  Migrate(records[1]);
  int known = 0;
  asio::co_spawn(io_.get_executor(), moved_->Find(pid)->AwaitInput("b"),
                 [&known](const std::exception_ptr& failure) {
                   EXPECT_FALSE(failure);
                   ++known;
                 });
  Settle();
  EXPECT_EQ(known, 1);
}

TEST_F(GuestTest, AReaderThatIsGoneIsToldAndRecorded) {
  Ready();
  auto process = Exec();
  TestSink sink;
  auto attachment = Attach(*process, sink, {.attachment_id = "a"});
  ASSERT_TRUE(attachment->SendStdin(0, "abc").ok());
  Settle();
  int changes = 0;
  guest_->set_on_change([&changes] { ++changes; });
  agent_->CloseInput(process->pid());
  Settle();
  EXPECT_TRUE(sink.stdin_closed);
  EXPECT_FALSE(sink.end_taken);
  EXPECT_EQ(changes, 1);
  EXPECT_TRUE(guest_->Save()->processes[0].std_in.ended);
}

TEST_F(GuestTest, NobodyWaitsForTheInputOfWhatIsNewOrOver) {
  Ready();
  auto process = Exec();
  int known = 0;
  const auto count = [&known](const std::exception_ptr& failure) {
    EXPECT_FALSE(failure);
    ++known;
  };
  asio::co_spawn(io_.get_executor(), process->AwaitInput("b"), count);
  Settle();
  EXPECT_EQ(known, 1);
  Migrate();
  process = moved_->Find(process->pid());
  asio::co_spawn(io_.get_executor(), process->AwaitInput("b"), count);
  Settle();
  EXPECT_EQ(known, 1);
  moved_->Close(absl::UnavailableError("over"));
  Settle();
  EXPECT_EQ(known, 2);
}

TEST_F(GuestTest, RestoreRefusesAProcessWithoutWait) {
  GuestState state;
  state.processes.emplace_back();
  state.processes[0].pid = 42;
  absl::Status status = guest_->Restore(state);
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_NE(status.message().find("42"), absl::string_view::npos);
}

TEST_F(GuestTest, SaveNamesAProcessWhoseWaitTheLinkSwallowed) {
  Ready();
  agent_->breaks_link = true;
  const uint32_t pid = Exec()->pid();
  ASSERT_FALSE(guest_->ready());
  const absl::Status refused = guest_->Save().status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()),
              testing::HasSubstr(absl::StrCat("process ", pid, " (cat -u)")));
  // Nothing is lost: the agent is asked when it is back.
  agent_->Connect();
  Settle();
  auto saved = guest_->Save();
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_NE(saved->processes[0].wait_call_id, 0);
  Migrate();
  agent_->Connect(moved_transport_.get());
  Settle();
  agent_->Exit(pid, 3);
  Settle();
  EXPECT_EQ(moved_->Find(pid)->exit_status(), (ExitStatus{ExitStatus::Kind::kCode, 3}));
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

TEST_F(GuestTest, TheTimeOfItsBootTravels) {
  Ready();
  auto state = guest_->Save();
  EXPECT_GT(state->started_unix_ms, 0u);
  state->started_unix_ms = 4711;
  moved_transport_ = std::make_unique<FakeHostTransport>(io_.get_executor());
  moved_ = Make(*moved_transport_);
  ASSERT_TRUE(moved_->Restore(*state).ok());
  EXPECT_EQ(moved_->started_unix_ms(), 4711u);
  EXPECT_EQ(moved_->Save()->started_unix_ms, 4711u);
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

}  // namespace
}  // namespace ferry::guest
