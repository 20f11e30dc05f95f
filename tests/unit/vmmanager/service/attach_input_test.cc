// Where the input of a new client begins, once a daemon was killed before it had recorded what the
// process took from the last one.
#include "tests/unit/vmmanager/service/service_fixture.h"

namespace ferry::vm {
namespace {

using Message = v1::AttachResponse;

constexpr milliseconds kShort{20};
constexpr milliseconds kForEver{600'000};

class AttachInputTest : public ServiceTest {
 protected:
  void TearDown() override {
    ServiceTest::TearDown();
    server_.reset();
  }

  // A process that has taken "hello" from client-1, and a daemon that does not know it: it was
  // killed. Its guest dials once Connect is called.
  std::shared_ptr<guest::Process> SendAndKill() {
    const uint32_t pid = BootWithProcess().id();
    auto client = Attach(pid, "client-1");
    ReadUntil(client, Message::kOpened);
    Settle();
    v1::AttachRequest request;
    request.mutable_stdin_data()->set_offset(0);
    request.mutable_stdin_data()->set_data("hello");
    client->Write(request);
    EXPECT_EQ(ReadUntil(client, Message::kStdinTaken).stdin_taken().offset(), 5u);
    client->Cancel();
    Kill();
    return Vm()->guest()->Find(pid);
  }

  void Kill() {
    Await(server_->Shutdown(milliseconds(0)));
    Settle();
    // It does not come to store where the streams stand.
    host_.store.FailNext(absl::UnavailableError("it was killed"));
    EXPECT_TRUE(Await(host_.Restart()).ok());
    restarted_ = std::make_unique<GuestService>(*host_.inventory);
    Serve("restarted", {restarted_.get()});
  }

  void Connect() {
    guests_.Connect(*host_.System(*Vm()));
    ASSERT_TRUE(Await(Vm()->guest()->WaitReady()).ok());
  }

  // Another client, which is being made to wait when this returns.
  AttachClient AttachAndWait(const std::shared_ptr<guest::Process>& process) {
    const auto users = process.use_count();
    AttachClient client = Attach(process->pid(), "client-2");
    Until([&] { return process.use_count() > users; });
    return client;
  }

  // How a call ends that is not opened.
  absl::Status Refusal(AttachClient& client) {
    if (Read(client).has_value()) {
      ADD_FAILURE() << "the client was let in";
      client->Cancel();
    }
    return End(client);
  }
  absl::Status Refusal(const std::shared_ptr<guest::Process>& process) {
    AttachClient client = Attach(process->pid(), "client-2");
    return Refusal(client);
  }

  std::unique_ptr<GuestService> restarted_;
};

TEST_F(AttachInputTest, AnotherClientBeginsWhereTheGuestIs) {
  auto process = SendAndKill();
  host_.settings.outcome_wait = kForEver;
  auto client = AttachAndWait(process);
  auto first = Begin(client->Read());
  Settle();
  EXPECT_FALSE(first->has_value());
  Connect();
  const auto message = Finish(first);
  ASSERT_TRUE(message.has_value() && message->has_opened());
  EXPECT_EQ(message->opened().stdin_offset(), 5u);
}

TEST_F(AttachInputTest, TheClientThatWasAttachedComesBackToAPausedVm) {
  const uint32_t pid = BootWithProcess().id();
  ASSERT_TRUE(Await(Vm()->Pause()).ok());
  auto client = Attach(pid, "client-1");
  ReadUntil(client, Message::kOpened);
  client->Cancel();
  Kill();
  host_.settings.outcome_wait = kShort;
  auto again = Attach(pid, "client-1");
  ReadUntil(again, Message::kOpened);
}

TEST_F(AttachInputTest, APausedGuestCannotSayIt) {
  auto process = SendAndKill();
  host_.settings.outcome_wait = kShort;
  ASSERT_TRUE(Await(Vm()->Pause()).ok());
  for (const bool migrating : {false, true}) {
    SCOPED_TRACE(migrating);
    if (migrating) {
      ASSERT_TRUE(Vm()->OpenMigration("session-1", "host-b:1").ok());
    }
    const absl::Status refused = Refusal(process);
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(refused.message(), HasSubstr("ferryctl vm resume web"));
  }
  Vm()->ReturnFromMigration(1);
  ASSERT_TRUE(Await(Vm()->Resume()).ok());
  host_.settings.outcome_wait = kForEver;
  auto client = Attach(process->pid(), "client-2");
  EXPECT_EQ(ReadUntil(client, Message::kOpened).opened().stdin_offset(), 5u);
}

TEST_F(AttachInputTest, AGuestThatWasPausedBeforeItSaidItCannotEither) {
  auto process = SendAndKill();
  Agent().processes[process->pid()].in.ended = true;  // it does not dial that port
  Connect();
  ASSERT_TRUE(Await(Vm()->Pause()).ok());
  host_.settings.outcome_wait = kShort;
  EXPECT_EQ(Refusal(process).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(AttachInputTest, NorCanAnAgentThatIsAway) {
  auto process = SendAndKill();
  host_.settings.outcome_wait = kShort;
  const absl::Status refused = Refusal(process);
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(refused.message(), HasSubstr("the agent of VM web is not connected"));
}

TEST_F(AttachInputTest, OfInputThatIsOverAnAgentSaysNothing) {
  auto process = SendAndKill();
  Agent().processes[process->pid()].in.ended = true;
  Connect();
  host_.settings.outcome_wait = kShort;
  auto client = Attach(process->pid(), "client-2");
  ReadUntil(client, Message::kOpened);
  // Nobody waits for that a second time.
  host_.settings.outcome_wait = kForEver;
  auto next = Attach(process->pid(), "client-3", true);
  ReadUntil(next, Message::kOpened);
}

// It had no time to say it, so its silence says nothing.
TEST_F(AttachInputTest, AGuestThatStoodStillMeanwhileIsWaitedForAnew) {
  auto process = SendAndKill();
  Agent().processes[process->pid()].in.ended = true;  // it does not dial that port
  Connect();
  host_.settings.outcome_wait = kShort;
  const auto begun = std::chrono::steady_clock::now();
  auto client = AttachAndWait(process);
  ASSERT_TRUE(Vm()->OpenMigration("session-1", "host-b:1").ok());
  Vm()->FreezeGuest();
  Vm()->ReturnFromMigration(1);
  ReadUntil(client, Message::kOpened);
  EXPECT_GE(std::chrono::steady_clock::now() - begun, 2 * kShort);
}

TEST_F(AttachInputTest, NobodyAttachesToAGuestThatIsBeingCut) {
  auto process = SendAndKill();
  host_.settings.outcome_wait = kShort;
  auto client = AttachAndWait(process);
  ASSERT_TRUE(Vm()->OpenMigration("session-1", "host-b:1").ok());
  Vm()->FreezeGuest();
  const absl::Status refused = Refusal(client);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.message(), HasSubstr("session-1"));
  Vm()->ReturnFromMigration(1);
}

TEST_F(AttachInputTest, AClientThatIsGoneDoesNotWait) {
  auto process = SendAndKill();
  host_.settings.outcome_wait = kForEver;
  const auto users = process.use_count();
  auto client = AttachAndWait(process);
  client->Cancel();
  Until([&] { return process.use_count() == users; });
  EXPECT_FALSE(process->attached());
}

TEST_F(AttachInputTest, TheEndOfTheVmEndsTheWait) {
  auto process = SendAndKill();
  host_.settings.outcome_wait = kForEver;
  auto client = AttachAndWait(process);
  host_.System(*Vm())->Exit(SystemExit::Cause::kCrashed, "signal 9");
  EXPECT_EQ(Refusal(client).code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace ferry::vm
