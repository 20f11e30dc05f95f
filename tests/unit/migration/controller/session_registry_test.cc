#include "migration/controller/session_registry.h"

#include "tests/unit/migration/controller/driven_fixture.h"

namespace ferry::migration {
namespace {

class SessionRegistryTest : public DrivenTest {};

TEST_F(SessionRegistryTest, SecondSessionOfTheVmIsRefused) {
  auto vm = Boot();
  ASSERT_TRUE(Export("s1").ok());
  const absl::Status second = Export("s2").status();
  EXPECT_EQ(second.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(second.message(), HasSubstr("s1"));
  EXPECT_EQ(a_.sessions->Find("s2").status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Resume(a_, "s1").ok());
  EXPECT_TRUE(Export("s2").ok());
}

TEST_F(SessionRegistryTest, SessionIdsAreCheckedAndUsedOnce) {
  Boot();
  EXPECT_EQ(Export("").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Export(std::string(129, 's')).status().code(), absl::StatusCode::kInvalidArgument);
  auto plan = Export("s1");
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(Export("s1", "other").status().code(), absl::StatusCode::kAlreadyExists);
  ASSERT_TRUE(Import("s1", *plan).ok());
  EXPECT_EQ(Import("s1", "another plan").code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(Resume(a_, "s1").ok());
  EXPECT_TRUE(Cleanup(a_, "s1").ok());
  EXPECT_EQ(Export("s1").status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(SessionRegistryTest, OldSessionsBecomeMereRecords) {
  Boot();
  for (int i = 0; i < 70; ++i) {
    const std::string id = absl::StrCat("s", i);
    ASSERT_TRUE(Export(id).ok());
    ASSERT_TRUE(Resume(a_, id).ok());
  }
  ASSERT_TRUE(Export("last").ok());
  size_t whole = 0;
  for (int i = 0; i < 70; ++i) {
    const std::string id = absl::StrCat("s", i);
    whole += a_.sessions->Find(id).ok();
    EXPECT_TRUE(Describe(a_, id).done());
    EXPECT_EQ(Export(id).status().code(), absl::StatusCode::kAlreadyExists);
  }
  EXPECT_EQ(whole, 64u);
  EXPECT_TRUE(a_.sessions->Find("last").ok());
  EXPECT_EQ(a_.sessions->List("web").size(), 71u);
}

TEST_F(SessionRegistryTest, AnyIdStaysInsideTheRuntimeFolder) {
  auto vm = Boot();
  const std::string id = "../../../evil";
  StartTransfer(id);
  Until([&] { return State(a_, id) == v1::SESSION_STATE_TRANSFER_COMPLETED; });
  ASSERT_TRUE(Resume(b_, id, *Stop(a_, id)).ok());
  Wait(a_, id);
  ExpectMoved(vm, 2);
}

TEST_F(SessionRegistryTest, SessionsWithLikeIdsDoNotMeet) {
  auto one = Boot("one");
  auto two = Boot("two");
  a_.host.backend.script().Block("Transfer");
  StartTransfer("session-1", "one");
  StartTransfer("session-2", "two");
  a_.host.backend.script().Release("Transfer");
  for (const char* id : {"session-1", "session-2"}) {
    Until([&] { return State(a_, id) == v1::SESSION_STATE_TRANSFER_COMPLETED; });
    ASSERT_TRUE(Resume(b_, id, *Stop(a_, id)).ok());
    Wait(a_, id);
  }
  ExpectMoved(one, 2);
  ExpectMoved(two, 2);
}

TEST_F(SessionRegistryTest, ImportIsAllOrNothing) {
  Boot();
  auto plan = Export("s1");
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(Import("s2", *plan).code(), absl::StatusCode::kInvalidArgument);
  for (size_t size = 0; size < plan->size(); size += 11) {
    EXPECT_FALSE(Import("s1", plan->substr(0, size)).ok()) << size;
    std::string flipped = *plan;
    flipped[size] ^= 4;
    EXPECT_FALSE(Import("s1", flipped).ok()) << size;
  }
  ExpectEmpty(b_);
  EXPECT_TRUE(b_.sessions->List("").empty());
  EXPECT_TRUE(b_.host.store.journal().empty());
  EXPECT_TRUE(Import("s1", *plan).ok());
}

TEST_F(SessionRegistryTest, VmKeepsItsId) {
  auto vm = Boot();
  auto plan = Export("s1");
  v1::ImportSandboxRequest request;
  request.set_session_id("s1");
  request.set_config(*plan);
  request.set_sandbox_id("another");
  EXPECT_EQ(Await(b_.sessions->Import(request)).code(), absl::StatusCode::kInvalidArgument);
  request.set_sandbox_id(vm->id());
  EXPECT_TRUE(Await(b_.sessions->Import(request)).ok());
}

TEST_F(SessionRegistryTest, BadOptionsChangeNothing) {
  auto vm = Boot();
  v1::PrepareAndExportSandboxRequest request;
  request.set_session_id("s1");
  request.set_vm("web");
  request.mutable_options();
  EXPECT_EQ(Await(a_.sessions->PrepareAndExport(request)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  auto plan = Export("s1");
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_TRUE(Import("s1", *plan).ok());
  v1::PrepareSandboxRequest prepare;
  prepare.set_session_id("s1");
  prepare.mutable_init_options();
  EXPECT_EQ(Await(b_.sessions->Prepare(prepare)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(State(b_, "s1"), v1::SESSION_STATE_DESTINATION_IMPORTED);
  EXPECT_TRUE(Prepare(b_, "s1").ok());
}

TEST_F(SessionRegistryTest, UnknownSessionsAreNamed) {
  EXPECT_EQ(a_.sessions->Find("s1").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(a_.sessions->Describe("s1").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Cleanup(a_, "s1").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Prepare(a_, "s1").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(SessionRegistryTest, CleanupLeavesTheRecord) {
  Boot();
  ASSERT_TRUE(Export("s1").ok());
  EXPECT_EQ(Cleanup(a_, "s1").code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(Resume(a_, "s1").ok());
  auto session = Session(a_, "s1");
  EXPECT_TRUE(Cleanup(a_, "s1").ok());
  EXPECT_TRUE(Cleanup(a_, "s1").ok());
  EXPECT_EQ(a_.sessions->Find("s1").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(State(a_, "s1"), v1::SESSION_STATE_FINALIZED);
  EXPECT_EQ(a_.sessions->List("web").size(), 1u);
  EXPECT_TRUE(a_.sessions->List("other").empty());
  EXPECT_TRUE(session->notifier()->closed());
}

TEST_F(SessionRegistryTest, RestartedDaemonKeepsRecordsAndCallsOffWhatHadNotCommitted) {
  Boot();
  const std::string done = Migrate();
  Wait(a_, done);
  auto other = Boot("other");
  ASSERT_TRUE(Export("s1", "other").ok());
  Settle();
  SessionRegistry restarted(*a_.deps);
  ASSERT_TRUE(Await(restarted.Load(JournalTrust::kWhole)).ok());
  ASSERT_EQ(restarted.List("").size(), 2u);
  auto finished = restarted.Describe(done);
  ASSERT_TRUE(finished.ok());
  EXPECT_EQ(finished->vm_location(), "host-b:1");
  EXPECT_EQ(finished->error(), "");
  EXPECT_EQ(restarted.Find(done).status().code(), absl::StatusCode::kNotFound);

  const auto claims = restarted.Claims();
  ASSERT_EQ(claims.size(), 1u);
  EXPECT_EQ(claims.at(other->id()).kind, vm::AdoptionClaim::Kind::kMigratingOut);
  EXPECT_EQ(claims.at(other->id()).session_id, "s1");
  Await(restarted.Recover());
  Until([&] { return restarted.Describe("s1")->done(); });
  auto cut_off = restarted.Describe("s1");
  EXPECT_THAT(cut_off->error(), HasSubstr("daemon was restarted"));
  EXPECT_EQ(cut_off->outcome(), v1::SESSION_OUTCOME_FAILED);
  EXPECT_EQ(cut_off->reason(), "daemon_restarted");
  EXPECT_EQ(Kinds(a_, "s1").back(), "ABORT");
  EXPECT_EQ(other->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(Await(restarted.Cleanup("s1")).ok());
}

TEST_F(SessionRegistryTest, ImportOfAnOwnSessionNamesTheHost) {
  Boot();
  v1::PrepareAndExportSandboxRequest prepare;
  prepare.set_session_id("s-1");
  prepare.set_vm("web");
  prepare.set_destination("another-name-of-a:1");
  prepare.mutable_options()->set_memory_transport(v1::MEMORY_TRANSPORT_TCP);
  auto plan = Await(a_.sessions->PrepareAndExport(prepare));
  ASSERT_TRUE(plan.ok()) << plan.status();
  v1::ImportSandboxRequest import;
  import.set_session_id("s-1");
  import.set_config(*plan);
  const absl::Status status = Await(a_.sessions->Import(import));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("is this host (host-a:1) under another name"));
}

TEST_F(SessionRegistryTest, NothingBeginsOnceItStops) {
  Boot();
  Await(a_.sessions->Shutdown());
  v1::PrepareAndExportSandboxRequest prepare;
  prepare.set_session_id("s-1");
  prepare.set_vm("web");
  v1::ImportSandboxRequest import;
  import.set_session_id("s-2");
  for (const absl::Status& status : {Await(a_.sessions->Migrate(MigrateRequest())).status(),
                                     Await(a_.sessions->PrepareAndExport(prepare)).status(),
                                     Await(a_.sessions->Import(import))}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  }
  EXPECT_TRUE(a_.sessions->List("").empty());
}

TEST_F(SessionRegistryTest, OnlyTheNewestSessionOfAVmHasASayAfterARestart) {
  auto vm = Boot();
  ASSERT_TRUE(Export("s1").ok());
  ASSERT_TRUE(Resume(a_, "s1").ok());
  ASSERT_TRUE(Export("s2").ok());
  Settle();
  // The older session's end was not stored.
  auto rows = Await(a_.host.store.ListSessions());
  for (vm::SessionRow row : *rows) {
    row.decided = false;
    ASSERT_TRUE(Await(a_.host.store.PutSession(row)).ok());
  }
  SessionRegistry restarted(*a_.deps);
  ASSERT_TRUE(Await(restarted.Load(JournalTrust::kWhole)).ok());
  const auto claims = restarted.Claims();
  ASSERT_EQ(claims.size(), 1u);
  EXPECT_EQ(claims.at(vm->id()).session_id, "s2");
  EXPECT_TRUE(restarted.Describe("s1")->done());
}

TEST_F(SessionRegistryTest, AnUndecidedSessionHasNoSayAfterALaterOneThatIsOver) {
  Boot();
  ASSERT_TRUE(Export("s1").ok());
  ASSERT_TRUE(Resume(a_, "s1").ok());
  ASSERT_TRUE(Export("s2").ok());
  ASSERT_TRUE(Resume(a_, "s2").ok());
  Settle();
  auto rows = Await(a_.host.store.ListSessions());
  for (vm::SessionRow row : *rows) {
    if (row.id != "s1") continue;
    row.decided = false;
    ASSERT_TRUE(Await(a_.host.store.PutSession(row)).ok());
  }
  SessionRegistry restarted(*a_.deps);
  ASSERT_TRUE(Await(restarted.Load(JournalTrust::kWhole)).ok());
  EXPECT_TRUE(restarted.Claims().empty());
  EXPECT_TRUE(restarted.Describe("s1")->done());
}

TEST_F(SessionRegistryTest, AJournalThatMayLackRecordsLeavesTheVmInDoubt) {
  auto vm = Boot();
  ASSERT_TRUE(Export("s1").ok());
  Settle();
  SessionRegistry restarted(*a_.deps);
  ASSERT_TRUE(Await(restarted.Load(JournalTrust::kMayLackRecords)).ok());
  EXPECT_EQ(restarted.Claims().at(vm->id()).kind, vm::AdoptionClaim::Kind::kInDoubt);
}

TEST_F(SessionRegistryTest, ARecordOfAnotherVersionIsNotGuessedAt) {
  Boot();
  ASSERT_TRUE(Export("s1").ok());
  Settle();
  a_.host.store.journal().back().detail = "\x08\x63";  // version 99
  SessionRegistry restarted(*a_.deps);
  const absl::Status refused = Await(restarted.Load(JournalTrust::kWhole));
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.message(), HasSubstr("another version of ferryd"));
}

class SettleTest : public DrivenTest {
 protected:
  v1::SettleSessionRequest Question(const std::string& id, ProofKind kind) {
    Proof word;
    word.kind = kind;
    word.session_id = id;
    word.vm_id = "vm";
    word.epoch = kind == ProofKind::kGo ? 2 : 1;
    word.plan_digest = plan_;
    word.journal_id = a_.host.store.journal_id();
    v1::SettleSessionRequest request;
    request.set_session_id(id);
    request.set_vm_id("vm");
    request.set_epoch(1);
    request.set_plan_sha256(plan_);
    request.set_proof(EncodeProof(word, plan_));
    return request;
  }
  absl::StatusOr<Proof> Ask(const std::string& id, ProofKind kind) {
    auto answer = Await(b_.sessions->Settle(Question(id, kind)));
    if (!answer.ok()) return answer.status();
    return DecodeProof(answer->proof(), plan_);
  }

  const std::string plan_ = std::string(32, 'p');
};

TEST_F(SettleTest, WhatIsNotKnownIsRefusedForEver) {
  Boot();
  for (const ProofKind kind : {ProofKind::kGo, ProofKind::kAbort, ProofKind::kGo}) {
    auto refused = Ask("s1", kind);
    ASSERT_TRUE(refused.ok()) << refused.status();
    EXPECT_EQ(refused->kind, ProofKind::kRefused);
    EXPECT_EQ(refused->journal_id, b_.host.store.journal_id());
  }
  EXPECT_THAT(Kinds(b_, "s1"), ElementsAre("REFUSED"));
  auto plan = Export("s1");
  ASSERT_TRUE(plan.ok());
  // A plan that was long on its way comes too late.
  EXPECT_EQ(Import("s1", *plan).code(), absl::StatusCode::kAlreadyExists);
  ExpectEmpty(b_);
}

TEST_F(SettleTest, WhatComesWhileItIsBeingRefusedIsRefused) {
  Boot();
  auto plan = Export("s1");
  ASSERT_TRUE(plan.ok());
  AsyncEvent written(io_.get_executor());
  b_.host.store.before_append = [&](vm::JournalRecord record) -> Task<absl::Status> {
    if (record.kind == "REFUSED") co_await written.Wait();
    co_return absl::OkStatus();
  };
  auto answer = Begin(b_.sessions->Settle(Question("s1", ProofKind::kGo)));
  auto imported = Begin(b_.sessions->Import(ImportRequest("s1", *plan), ""));
  Settle();
  written.Set();
  EXPECT_TRUE(Finish(answer).ok());
  EXPECT_EQ(Finish(imported).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(Kinds(b_, "s1"), ElementsAre("REFUSED"));
  ExpectEmpty(b_);
  b_.host.store.before_append = nullptr;
}

TEST_F(SettleTest, TheSourceOfASessionIsNotAsked) {
  Boot();
  ASSERT_TRUE(Export("s1").ok());
  v1::SettleSessionRequest request;
  request.set_session_id("s1");
  EXPECT_EQ(Await(a_.sessions->Settle(request)).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace ferry::migration
