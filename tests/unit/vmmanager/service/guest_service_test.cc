#include "vmmanager/service/guest_service.h"

#include "tests/unit/vmmanager/service/service_fixture.h"
#include "vmmanager/service/attach_call.h"

namespace ferry::vm {
namespace {

using Message = v1::AttachResponse;

class GuestServiceTest : public ServiceTest {
 protected:
  absl::StatusOr<v1::SignalProcessResponse> Signal(uint32_t pid, uint32_t signal) {
    v1::SignalProcessRequest request;
    request.set_vm("web");
    request.set_process_id(pid);
    request.set_signal(signal);
    return Call(processes_->async(), &GuestAsync::SignalProcess, request);
  }
};

TEST_F(GuestServiceTest, RunsListsAndSignalsProcesses) {
  const v1::Process process = BootWithProcess();
  EXPECT_TRUE(process.running());
  EXPECT_EQ(process.spec().command(0), "cat");
  v1::ListProcessesRequest list;
  list.set_vm("web");
  EXPECT_EQ(Call(processes_->async(), &GuestAsync::ListProcesses, list)->processes_size(), 1);
  EXPECT_TRUE(Signal(process.id(), 15)->delivered());
  EXPECT_EQ(Agent().signals, std::vector<uint32_t>{15});
  Agent().Exit(process.id(), 1);
  EXPECT_FALSE(Signal(process.id(), 15)->delivered());
}

TEST_F(GuestServiceTest, TheSameRequestMakesOneProcess) {
  BootWithProcess();
  v1::CreateProcessRequest request;
  request.set_vm("web");
  request.mutable_spec()->add_command("cat");
  request.set_request_id("twice");
  auto first = Call(processes_->async(), &GuestAsync::CreateProcess, request);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(Call(processes_->async(), &GuestAsync::CreateProcess, request)->id(), first->id());
  request.set_request_id("once more");
  EXPECT_NE(Call(processes_->async(), &GuestAsync::CreateProcess, request)->id(), first->id());
  request.set_request_id(std::string(129, 'x'));
  EXPECT_EQ(Call(processes_->async(), &GuestAsync::CreateProcess, request).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(GuestServiceTest, RefusalsKeepTheirCodes) {
  EXPECT_EQ(Exec({"cat"}).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(Create("web").ok());
  EXPECT_EQ(Exec({"cat"}).status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(Start("web").ok());
  EXPECT_EQ(Exec({}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Exec({""}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Exec({std::string(60'000, 'x')}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Signal(1, 65).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Signal(1, 9).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(Call(vms_->async(), &VmAsync::PauseVm, Ref("web")).ok());
  const absl::Status paused = Exec({"cat"}).status();
  EXPECT_EQ(paused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(paused.message(), HasSubstr("paused"));
}

TEST_F(GuestServiceTest, SignalToAPausedVmIsRefused) {
  const uint32_t pid = BootWithProcess().id();
  ASSERT_TRUE(Call(vms_->async(), &VmAsync::PauseVm, Ref("web")).ok());
  const absl::Status paused = Signal(pid, 15).status();
  EXPECT_EQ(paused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(paused.message(), HasSubstr("paused"));
  EXPECT_TRUE(Agent().signals.empty());
}

TEST_F(GuestServiceTest, AgentThatHangsOrIsAwayIsNamedInTime) {
  const uint32_t pid = BootWithProcess().id();
  host_.settings.agent_wait = milliseconds(20);
  host_.settings.answer_wait = milliseconds(20);
  Agent().silent = true;
  for (const absl::Status& status : {Signal(pid, 15).status(), Exec({"cat"}).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(status.message(), HasSubstr("the agent of VM web gives no answer"));
    EXPECT_THAT(NextStepOf(status), HasSubstr("ferryctl stop --force web"));
  }
  Agent().Stop();
  Settle();
  for (const absl::Status& status : {Signal(pid, 15).status(), Exec({"cat"}).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(status.message(), HasSubstr("the agent of VM web is not connected"));
  }
}

TEST_F(GuestServiceTest, NothingIsStartedForACallerThatLeftDuringASwitchover) {
  BootWithProcess();
  ASSERT_TRUE(Vm()->OpenMigration("session-1", "host-b:1").ok());
  Vm()->FreezeGuest();
  v1::CreateProcessRequest request;
  request.set_vm("web");
  request.mutable_spec()->add_command("late");
  auto late = Await(
      rpc::CallUnary(processes_->async(), &GuestAsync::CreateProcess, request, milliseconds(50)));
  EXPECT_EQ(late.status().code(), absl::StatusCode::kDeadlineExceeded);
  const auto resumed =
      Await(rpc::CallUnary(vms_->async(), &VmAsync::ResumeVm, Ref("web"), milliseconds(50)));
  EXPECT_EQ(resumed.status().code(), absl::StatusCode::kDeadlineExceeded);
  Vm()->ReturnFromMigration(1);
  // One that comes now is answered behind whatever became of the others.
  ASSERT_TRUE(Exec({"cat"}).ok());
  Settle();
  for (const auto& [pid, process] : Agent().processes) {
    EXPECT_NE(process.request.parameters.command_args.front(), "late");
  }
}

TEST_F(GuestServiceTest, AttachCarriesStdioBothWays) {
  const uint32_t pid = BootWithProcess().id();
  auto client = Attach(pid);
  auto opened = Read(client);
  ASSERT_TRUE(opened.has_value() && opened->has_opened());
  EXPECT_EQ(opened->opened().host(), "host-a:1");
  EXPECT_EQ(opened->opened().process().id(), pid);
  v1::AttachRequest request;
  request.mutable_stdin_data()->set_offset(0);
  request.mutable_stdin_data()->set_data("hello");
  client->Write(request);
  EXPECT_EQ(ReadUntil(client, Message::kStdinTaken).stdin_taken().offset(), 5u);
  EXPECT_EQ(Agent().processes[pid].in.taken, "hello");
  Agent().Write(pid, false, "out");
  auto output = ReadUntil(client, Message::kOutput);
  EXPECT_EQ(output.output().data(), "out");
  EXPECT_EQ(output.output().stream(), v1::STDIO_STREAM_STDOUT);
  Agent().Write(pid, true, "err");
  EXPECT_EQ(ReadUntil(client, Message::kOutput).output().stream(), v1::STDIO_STREAM_STDERR);
}

TEST_F(GuestServiceTest, ExitComesAfterTheLastByteAndTheCallEndsOnceItIsTaken) {
  const uint32_t pid = BootWithProcess().id();
  auto client = Attach(pid);
  ReadUntil(client, Message::kOpened);
  Agent().Exit(pid, 7);
  Agent().Write(pid, false, "last words");
  Agent().EndOutput(pid);
  std::string output;
  int ends = 0;
  int exits = 0;
  while (auto message = Read(client)) {
    v1::AttachRequest request;
    if (message->has_output()) {
      output += message->output().data();
      request.mutable_ack()->set_stream(message->output().stream());
      request.mutable_ack()->set_offset(message->output().offset() +
                                        message->output().data().size());
      client->Write(request);
    } else if (message->has_output_end()) {
      ++ends;
      request.mutable_ack()->set_stream(message->output_end().stream());
      request.mutable_ack()->set_offset(message->output_end().offset());
      request.mutable_ack()->set_end_taken(true);
      client->Write(request);
    } else if (message->has_exited()) {
      ++exits;
      EXPECT_EQ(output, "last words");
      EXPECT_EQ(ends, 2);
      EXPECT_EQ(message->exited().code(), 7u);
      request.mutable_exit_taken();
      client->Write(request);
    }
  }
  EXPECT_EQ(exits, 1);
  EXPECT_TRUE(Await(client->Finish()).ok());
}

TEST_F(GuestServiceTest, SecondAttacherIsRefusedUnlessItSteals) {
  const uint32_t pid = BootWithProcess().id();
  auto first = Attach(pid, "client-1");
  ReadUntil(first, Message::kOpened);
  auto second = Attach(pid, "client-2");
  EXPECT_EQ(End(second).code(), absl::StatusCode::kAlreadyExists);
  auto thief = Attach(pid, "client-3", true);
  ReadUntil(thief, Message::kOpened);
  EXPECT_NE(ReadUntil(first, Message::kDetached).detached().reason(), "");
  EXPECT_FALSE(End(first).ok());
  Agent().Write(pid, false, "for the thief");
  EXPECT_EQ(ReadUntil(thief, Message::kOutput).output().data(), "for the thief");
}

TEST_F(GuestServiceTest, ClientThatComesBackIsNotASecondAttacher) {
  const uint32_t pid = BootWithProcess().id();
  auto first = Attach(pid, "client-1");
  ReadUntil(first, Message::kOpened);
  auto again = Attach(pid, "client-1");
  ReadUntil(again, Message::kOpened);
  Agent().Write(pid, false, "hello again");
  EXPECT_EQ(ReadUntil(again, Message::kOutput).output().data(), "hello again");
}

TEST_F(GuestServiceTest, ClientThatGoesAwayLosesNothingForTheNext) {
  const uint32_t pid = BootWithProcess().id();
  {
    auto client = Attach(pid);
    ReadUntil(client, Message::kOpened);
    Agent().Write(pid, false, "one ");
    ReadUntil(client, Message::kOutput);
    client->Cancel();
  }
  auto process = Vm()->guest()->Find(pid);
  Until([&] { return !process->attached(); });
  Agent().Write(pid, false, "two");
  auto next = Attach(pid, "client-2");
  std::string output;
  while (output.size() < 7) output += ReadUntil(next, Message::kOutput).output().data();
  EXPECT_EQ(output, "one two");
}

TEST_F(GuestServiceTest, AttachSaysWhatIsWrong) {
  BootWithProcess();
  auto nobody = Attach(4711);
  EXPECT_EQ(End(nobody).code(), absl::StatusCode::kNotFound);
  auto unopened = OpenAttach();
  v1::AttachRequest request;
  request.mutable_exit_taken();
  unopened->Write(request);
  EXPECT_EQ(End(unopened).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(GuestServiceTest, GapInStdinEndsTheCall) {
  auto client = Attach(BootWithProcess().id());
  ReadUntil(client, Message::kOpened);
  v1::AttachRequest request;
  request.mutable_stdin_data()->set_offset(10);
  request.mutable_stdin_data()->set_data("x");
  client->Write(request);
  EXPECT_EQ(End(client).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(GuestServiceTest, AttachedClientIsToldOfMigrations) {
  auto client = Attach(BootWithProcess().id());
  ReadUntil(client, Message::kOpened);
  auto vm = Vm();
  // The observer is registered once `opened` is on its way.
  EXPECT_TRUE(Call(hosts_->async(), &HostAsync::GetHost, {}).ok());
  ASSERT_TRUE(vm->OpenMigration("session-1", "host-b:1").ok());
  auto opened = ReadUntil(client, Message::kMigrationOpened);
  EXPECT_EQ(opened.migration_opened().destination(), "host-b:1");
  vm->AnnounceMove();
  EXPECT_EQ(ReadUntil(client, Message::kMoved).moved().session_id(), "session-1");
  vm->ReturnFromMigration(1);
  EXPECT_EQ(ReadUntil(client, Message::kMigrationClosed).migration_closed().session_id(),
            "session-1");
}

TEST_F(GuestServiceTest, ClientThatAttachesDuringAMigrationIsToldToo) {
  const uint32_t pid = BootWithProcess().id();
  auto vm = Vm();
  ASSERT_TRUE(vm->OpenMigration("session-1", "host-b:1").ok());
  auto client = Attach(pid);
  EXPECT_EQ(ReadUntil(client, Message::kMigrationOpened).migration_opened().session_id(),
            "session-1");
  vm->ReturnFromMigration(1);
}

TEST_F(GuestServiceTest, AttachWaitsThroughTheSwitchover) {
  const uint32_t pid = BootWithProcess().id();
  auto vm = Vm();
  ASSERT_TRUE(vm->OpenMigration("session-1", "host-b:1").ok());
  vm->FreezeGuest();
  auto client = Attach(pid);
  auto first = Begin(client->Read());
  // A call that is answered meanwhile shows that the server had its turn.
  EXPECT_TRUE(Call(hosts_->async(), &HostAsync::GetHost, {}).ok());
  EXPECT_FALSE(first->has_value());
  vm->ReturnFromMigration(1);
  auto message = Finish(first);
  ASSERT_TRUE(message.has_value());
  EXPECT_TRUE(message->has_opened());
}

TEST_F(GuestServiceTest, VmThatDiesEndsTheCall) {
  auto client = Attach(BootWithProcess().id());
  ReadUntil(client, Message::kOpened);
  host_.System(*Vm())->Exit(SystemExit::Cause::kCrashed, "signal 9");
  const absl::Status ended = End(client);
  EXPECT_EQ(ended.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(NextStepOf(ended), HasSubstr("ferryctl vm inspect web"));
}

TEST_F(GuestServiceTest, AttachToAVmThatDiedSaysWhatToDo) {
  const uint32_t pid = BootWithProcess().id();
  host_.System(*Vm())->Exit(SystemExit::Cause::kCrashed, "signal 9");
  Settle();
  auto client = Attach(pid);
  const absl::Status refused = End(client);
  // A client that follows its process looks elsewhere, and gives up soon.
  EXPECT_EQ(refused.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(refused.message(), HasSubstr("ended unexpectedly: signal 9"));
  EXPECT_THAT(NextStepOf(refused), HasSubstr("ferryctl vm inspect web"));
}

v1::AttachResponse OutputAt(uint64_t offset, const std::string& data, uint32_t generation = 1,
                            v1::StdioStream stream = v1::STDIO_STREAM_STDOUT) {
  v1::AttachResponse response;
  response.mutable_output()->set_stream(stream);
  response.mutable_output()->set_generation(generation);
  response.mutable_output()->set_offset(offset);
  response.mutable_output()->set_data(data);
  return response;
}

TEST(MergeOutputTest, OnlyWhatFollowsIsTakenUp) {
  v1::AttachResponse waiting = OutputAt(5, "abc");
  v1::AttachResponse next = OutputAt(8, "de");
  ASSERT_TRUE(MergeOutput(&waiting, &next));
  EXPECT_EQ(waiting.output().offset(), 5u);
  EXPECT_EQ(waiting.output().data(), "abcde");
  v1::AttachResponse end;
  end.mutable_output_end()->set_offset(10);
  for (v1::AttachResponse other :
       {OutputAt(11, "f"), OutputAt(10, "f", 2), OutputAt(10, "f", 1, v1::STDIO_STREAM_STDERR),
        OutputAt(10, std::string(256 * 1024, 'f')), end}) {
    EXPECT_FALSE(MergeOutput(&waiting, &other)) << other.ShortDebugString().substr(0, 80);
  }
  EXPECT_FALSE(MergeOutput(&end, &next));
  EXPECT_EQ(waiting.output().data(), "abcde");
}

}  // namespace
}  // namespace ferry::vm
