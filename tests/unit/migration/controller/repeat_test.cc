// Calls that come again, together, late, or for a session that cannot go on.
#include <random>

#include "tests/unit/migration/controller/driven_fixture.h"

namespace ferry::migration {
namespace {

using absl::StatusCode;
using ::testing::AnyOf;
using ::testing::Contains;

class RepeatTest : public DrivenTest {};

TEST_F(RepeatTest, ExportImportAndPrepareGiveTheSameAnswer) {
  auto vm = Boot();
  auto plan = Export("s1");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(*Export("s1"), *plan);
  ASSERT_TRUE(Import("s1", *plan).ok());
  EXPECT_TRUE(Import("s1", *plan).ok());
  auto prepared = Prepare(b_, "s1");
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  auto again = Prepare(b_, "s1");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->SerializeAsString(), prepared->SerializeAsString());
  EXPECT_THAT(Kinds(a_, "s1"), ElementsAre("OPEN"));
  EXPECT_THAT(Kinds(b_, "s1"), ElementsAre("IMPORTED", "LISTENING"));
  // A caller that lost everything but the session's id goes on from there.
  EXPECT_TRUE(Transfer(b_, "s1").ok());
  EXPECT_TRUE(Transfer(a_, "s1", *again).ok());
  Until([&] { return State(a_, "s1") == v1::SESSION_STATE_TRANSFER_COMPLETED; });
  EXPECT_EQ(*Export("s1"), *plan);
  EXPECT_TRUE(Import("s1", *plan).ok());
  EXPECT_TRUE(Stop(a_, "s1", *Resume(b_, "s1", *Stop(a_, "s1"))).ok());
  ExpectMoved(vm, 2);
  EXPECT_EQ(Export("s1").status().code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(Import("s1", *plan).code(), StatusCode::kAlreadyExists);
}

TEST_F(RepeatTest, TheSameIdForSomethingElseIsRefused) {
  Boot();
  Boot("other");
  auto plan = Export("s1");
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(Export("s1", "other").status().code(), StatusCode::kAlreadyExists);
  ASSERT_TRUE(Import("s1", *plan).ok());
  EXPECT_EQ(Import("s1", *plan + "x").code(), StatusCode::kAlreadyExists);
  ASSERT_TRUE(Prepare(b_, "s1").ok());
  v1::PrepareSandboxRequest other;
  other.set_session_id("s1");
  other.mutable_init_options()->set_memory_transport(v1::MEMORY_TRANSPORT_TCP);
  other.mutable_init_options()->set_max_bandwidth(1'000'000);
  EXPECT_EQ(Await(b_.sessions->Prepare(other)).status().code(), StatusCode::kFailedPrecondition);
}

TEST_F(RepeatTest, CallsThatCameTwiceAtOnceTakeEffectOnce) {
  auto vm = Boot();
  a_.host.backend.script().Block("InitializeLiveMigrationOnSource");
  auto one = Begin(a_.sessions->PrepareAndExport(ExportRequest("s1")));
  Await(a_.host.backend.script().WaitBlocked("InitializeLiveMigrationOnSource"));
  auto two = Begin(a_.sessions->PrepareAndExport(ExportRequest("s1")));
  Settle();
  a_.host.backend.script().Release("InitializeLiveMigrationOnSource");
  const auto plan = Finish(one);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(*Finish(two), *plan);

  auto import_one = Begin(b_.sessions->Import(ImportRequest("s1", *plan)));
  auto import_two = Begin(b_.sessions->Import(ImportRequest("s1", *plan)));
  EXPECT_TRUE(Finish(import_one).ok());
  EXPECT_TRUE(Finish(import_two).ok()) << Finish(import_two);

  b_.host.backend.script().Block("Create");
  v1::PrepareSandboxRequest prepare;
  prepare.set_session_id("s1");
  prepare.mutable_init_options()->set_memory_transport(v1::MEMORY_TRANSPORT_TCP);
  auto prepare_one = Begin(b_.sessions->Prepare(prepare));
  auto prepare_two = Begin(b_.sessions->Prepare(prepare));
  Await(b_.host.backend.script().WaitBlocked("Create"));
  b_.host.backend.script().Release("Create");
  ASSERT_TRUE(Finish(prepare_one).ok());
  ASSERT_TRUE(Finish(prepare_two).ok());
  EXPECT_EQ(Finish(prepare_one)->session_token(), Finish(prepare_two)->session_token());
  EXPECT_THAT(Kinds(b_, "s1"), ElementsAre("IMPORTED", "LISTENING"));

  EXPECT_TRUE(Transfer(b_, "s1").ok());
  EXPECT_TRUE(Transfer(a_, "s1", *Finish(prepare_one)).ok());
  Until([&] { return State(a_, "s1") == v1::SESSION_STATE_TRANSFER_COMPLETED; });
  auto stop_one = Begin(Session(a_, "s1")->Finalize(v1::FINALIZE_ACTION_STOP, ""));
  auto stop_two = Begin(Session(a_, "s1")->Finalize(v1::FINALIZE_ACTION_STOP, ""));
  EXPECT_EQ(*Finish(stop_one), *Finish(stop_two));
  const std::string go = *Finish(stop_one);
  auto run_one = Begin(Session(b_, "s1")->Finalize(v1::FINALIZE_ACTION_RESUME, go));
  auto run_two = Begin(Session(b_, "s1")->Finalize(v1::FINALIZE_ACTION_RESUME, go));
  EXPECT_EQ(*Finish(run_one), *Finish(run_two));
  Wait(a_, "s1");
  ExpectMoved(vm, 2);
}

TEST_F(RepeatTest, TheSameRequestIdIsTheSameMigrationAlsoAfterARestart) {
  Boot();
  v1::MigrateRequest request = MigrateRequest();
  request.set_request_id("once");
  const std::string id = Migrate(request);
  EXPECT_EQ(Migrate(request), id);
  Wait(a_, id);
  Settle();
  EXPECT_EQ(Migrate(request), id);
  SessionRegistry restarted(*a_.deps);
  ASSERT_TRUE(Await(restarted.Load(JournalTrust::kWhole)).ok());
  auto again = Await(restarted.Migrate(request));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->session_id(), id);
}

// --- Stop after resume, resume after stop ---

TEST_F(RepeatTest, StopAfterResumeAtTheSourceNeedsWhatResumeReturned) {
  auto vm = Boot();
  TransferBoth("s1");
  auto resumed = Resume(a_, "s1");
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_FALSE(resumed->empty());
  EXPECT_EQ(*Resume(a_, "s1"), *resumed);
  EXPECT_EQ(Stop(a_, "s1").status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(Stop(a_, "s1", *resumed).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_STOPPED);
  EXPECT_TRUE(Stop(a_, "s1", *resumed).ok());
  EXPECT_EQ(Resume(a_, "s1").status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(Describe(a_, "s1").vm_location(), "nowhere");
  // It is the session's no more.
  ASSERT_TRUE(Await(vm->Start()).ok());
  EXPECT_TRUE(Stop(a_, "s1", *resumed).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
}

TEST_F(RepeatTest, StopAfterResumeEndsNothingThatHasMovedSince) {
  Boot();
  ASSERT_TRUE(Export("s1").ok());
  auto resumed = Resume(a_, "s1");
  ASSERT_TRUE(resumed.ok());
  ASSERT_TRUE(Export("s2").ok());
  EXPECT_EQ(Stop(a_, "s1", *resumed).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ((*a_.host.inventory->Find("web"))->state(), v1::VM_STATE_MIGRATING_OUT);
}

TEST_F(RepeatTest, StopAfterResumeAtTheDestinationNeedsWhatResumeReturned) {
  auto vm = Boot();
  TransferBoth("s1");
  auto go = Stop(a_, "s1");
  auto done = Resume(b_, "s1", *go);
  ASSERT_TRUE(done.ok());
  EXPECT_EQ(Stop(b_, "s1").status().code(), StatusCode::kFailedPrecondition);
  auto there = *b_.host.inventory->Find("web");
  EXPECT_EQ(there->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(*Stop(b_, "s1", *done), *done);
  EXPECT_EQ(there->state(), v1::VM_STATE_STOPPED);
  EXPECT_EQ(*Stop(b_, "s1", *done), *done);
  EXPECT_EQ(Resume(b_, "s1", *go).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(there->state(), v1::VM_STATE_STOPPED);
}

TEST_F(RepeatTest, ResumeGoesOnWhereItFailed) {
  auto vm = Boot();
  TransferBoth("s1");
  const std::string go = *Stop(a_, "s1");
  b_.host.backend.script().FailNext("FinalizeLiveMigration", absl::InternalError("cont"));
  EXPECT_EQ(Resume(b_, "s1", go).status().code(), StatusCode::kInternal);
  EXPECT_EQ(Kinds(b_, "s1").back(), "GRANTED");
  EXPECT_EQ(Cleanup(b_, "s1").code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(Cleanup(b_, "s1").message()), HasSubstr("RESUME"));
  EXPECT_TRUE(Resume(b_, "s1", go).ok());
  EXPECT_THAT(Kinds(b_, "s1"),
              ElementsAre("IMPORTED", "LISTENING", "PREPARED", "GRANTED", "RUNNING"));
  Wait(a_, "s1");
  ExpectMoved(vm, 2);
}

TEST_F(RepeatTest, ReclaimGoesOnWhereItFailed) {
  auto vm = Boot();
  TransferBoth("s1");
  ASSERT_TRUE(Stop(a_, "s1").ok());
  EXPECT_THAT(std::string(Cleanup(a_, "s1").message()), HasSubstr("waits for"));
  a_.host.backend.script().FailNext("FinalizeLiveMigration", absl::InternalError("cont"));
  a_.host.backend.script().FailNext("GetProperties", absl::InternalError("cont"));
  a_.host.backend.script().FailNext("Resume", absl::InternalError("cont"));
  auto refused = Stop(b_, "s1");
  ASSERT_TRUE(refused.ok());
  Settle();
  ASSERT_EQ(Kinds(a_, "s1").back(), "RECLAIMED");
  const absl::StatusOr<std::string> back = Resume(a_, "s1", *refused);
  EXPECT_TRUE(back.ok()) << back.status();
  EXPECT_TRUE(Describe(a_, "s1").done());
  EXPECT_EQ(vm->epoch(), 3u);
  ExpectRolledBack(vm);
}

// --- Failed sessions ---

TEST_F(RepeatTest, AFailedSourceIsRolledBackByItsCleanup) {
  auto vm = Boot();
  a_.host.backend.script().FailNext("Transfer", absl::InternalError("broken"));
  StartTransfer("s1");
  Until([&] { return State(a_, "s1") == v1::SESSION_STATE_FAILED; });
  EXPECT_TRUE(Cleanup(a_, "s1").ok());
  EXPECT_TRUE(Cleanup(a_, "s1").ok());
  EXPECT_EQ(State(a_, "s1"), v1::SESSION_STATE_FINALIZED);
  Until([&] { return Describe(b_, "s1").done(); });
  EXPECT_TRUE(Cleanup(b_, "s1").ok());
  ExpectRolledBack(vm);
  TransferBoth("s2");
}

TEST_F(RepeatTest, AFailedDestinationIsRefusedByItsCleanup) {
  auto vm = Boot();
  FailAppend(b_, "REFUSED");
  b_.host.backend.script().FailNext("Load", absl::InternalError("broken"));
  StartTransfer("s1");
  Until([&] { return State(b_, "s1") == v1::SESSION_STATE_FAILED; });
  EXPECT_TRUE(Cleanup(b_, "s1").ok());
  EXPECT_EQ(Kinds(b_, "s1").back(), "REFUSED");
  Until([&] { return State(a_, "s1") == v1::SESSION_STATE_FAILED; });
  EXPECT_TRUE(Cleanup(a_, "s1").ok());
  ExpectRolledBack(vm);
}

TEST_F(RepeatTest, ACancelThatCouldNotBeWrittenCanBeRepeated) {
  auto vm = Boot();
  PrepareBoth("s1");
  FailAppend(b_, "REFUSED");
  EXPECT_FALSE(Cancel(b_, "s1").ok());
  EXPECT_EQ(State(b_, "s1"), v1::SESSION_STATE_FAILED);
  EXPECT_TRUE(Cancel(b_, "s1").ok());
  EXPECT_EQ(Kinds(b_, "s1").back(), "REFUSED");
  EXPECT_TRUE(Cleanup(b_, "s1").ok());
  EXPECT_TRUE(Resume(a_, "s1").ok());
  ExpectRolledBack(vm);
}

TEST_F(RepeatTest, AnAbortedDestinationTakesTheSameVmAtOnce) {
  auto vm = Boot();
  PrepareBoth("s1");
  EXPECT_TRUE(Cancel(a_, "s1").ok());
  EXPECT_TRUE(Resume(a_, "s1").ok());
  EXPECT_TRUE(Cancel(b_, "s1").ok());
  TransferBoth("s2");
  EXPECT_TRUE(Stop(a_, "s2", *Resume(b_, "s2", *Stop(a_, "s2"))).ok());
  ExpectMoved(vm, 2);
}

// --- A failed export ---

class FailedExportTest : public DrivenTest, public ::testing::WithParamInterface<std::string> {};

TEST_P(FailedExportTest, LeavesASourceThatRunsAndTakesCalls) {
  auto vm = Boot();
  const std::string step = GetParam();
  const std::string kernel = a_.host.settings.kernel;
  Settle();
  if (step == "Plan") {
    std::filesystem::rename(kernel, kernel + ".away");
  } else if (step == "Store") {
    a_.host.store.FailNext(absl::ResourceExhaustedError("the disk is full"));
  } else if (step == "OPEN") {
    FailAppend(a_, "OPEN");
  } else {
    a_.host.backend.script().FailNext(step, absl::InternalError("broken"));
  }
  const auto failed = Export("s1");
  EXPECT_FALSE(failed.ok());
  if (step == "Plan") std::filesystem::rename(kernel + ".away", kernel);
  ExpectRolledBack(vm);
  EXPECT_TRUE(Await(vm->Pause()).ok());
  EXPECT_TRUE(Await(vm->Resume()).ok());
  // Under the same id, too: nothing was begun.
  TransferBoth("s1");
  EXPECT_TRUE(Stop(a_, "s1", *Resume(b_, "s1", *Stop(a_, "s1"))).ok());
  ExpectMoved(vm, 2);
}

INSTANTIATE_TEST_SUITE_P(Steps, FailedExportTest,
                         ::testing::Values("InitializeLiveMigrationOnSource", "GetProperties",
                                           "Plan", "Store", "OPEN"),
                         [](const auto& info) { return info.param; });

TEST_F(RepeatTest, AnExportThatCannotBeUndoneCanBeCleanedUp) {
  auto vm = Boot();
  a_.host.backend.script().FailNext("GetProperties", absl::InternalError("broken"));
  a_.host.backend.script().FailNext("CancelLiveMigration", absl::InternalError("stuck"));
  EXPECT_FALSE(Export("s1").ok());
  EXPECT_EQ(State(a_, "s1"), v1::SESSION_STATE_FAILED);
  EXPECT_TRUE(Cleanup(a_, "s1").ok());
  ExpectRolledBack(vm);
}

// --- Many at once ---

TEST_F(RepeatTest, OneOfManySessionsForAVmGetsIt) {
  Boot();
  a_.host.backend.script().Block("InitializeLiveMigrationOnSource");
  std::vector<Pending<absl::StatusOr<std::string>>> calls;
  for (int i = 0; i < 32; ++i) {
    calls.push_back(Begin(a_.sessions->PrepareAndExport(ExportRequest("s" + std::to_string(i)))));
  }
  Await(a_.host.backend.script().WaitBlocked("InitializeLiveMigrationOnSource"));
  a_.host.backend.script().Release("InitializeLiveMigrationOnSource");
  int made = 0;
  for (const auto& call : calls) {
    const auto plan = Finish(call);
    made += plan.ok() ? 1 : 0;
    if (!plan.ok()) {
      EXPECT_EQ(plan.status().code(), StatusCode::kAlreadyExists);
    }
  }
  EXPECT_EQ(made, 1);
  EXPECT_EQ(a_.sessions->List("web").size(), 1u);
}

TEST_F(RepeatTest, ManySessionsAtOnceAllMoveTheirVms) {
  std::vector<std::string> ids;
  for (int i = 0; i < 32; ++i) Boot("vm" + std::to_string(i));
  for (int i = 0; i < 32; ++i) ids.push_back(Migrate(MigrateRequest("vm" + std::to_string(i))));
  for (const std::string& id : ids) {
    EXPECT_EQ(Wait(a_, id).outcome(), v1::SESSION_OUTCOME_SUCCEEDED);
  }
  EXPECT_EQ(b_.host.inventory->List().size(), 32u);
  EXPECT_TRUE(a_.host.inventory->List().empty());
}

TEST_F(RepeatTest, AVmOnItsWayCannotBeSentBackMeanwhile) {
  auto vm = Boot();
  b_.host.backend.script().Block("Load");
  const std::string id = Migrate();
  Await(b_.host.backend.script().WaitBlocked("Load"));
  auto back = ExportRequest("back");
  back.set_destination("host-a:1");
  EXPECT_EQ(Await(b_.sessions->PrepareAndExport(back)).status().code(), StatusCode::kAlreadyExists);
  b_.host.backend.script().Release("Load");
  EXPECT_EQ(Wait(a_, id).outcome(), v1::SESSION_OUTCOME_SUCCEEDED);
  ExpectMoved(vm, 2);
}

// --- Any calls in any order, with any proofs ---

class ShuffleTest : public DrivenTest, public ::testing::WithParamInterface<unsigned> {
 protected:
  using Random = std::mt19937;

  bool Runs(MigrationHost& host) const { return host.host.backend.Runs(vm_id_); }

  // How far the VM is on its way when the calls begin: in any order they seldom bring it there.
  enum class Start { kAtHome, kPrepared, kVoted, kCommitted };
  static Start start() { return static_cast<Start>(GetParam() % 4); }

  void Begin() {
    vm_id_ = Boot()->id();
    if (start() == Start::kPrepared) prepared_.push_back(PrepareBoth("s1"));
    if (start() >= Start::kVoted) TransferBoth("s1");
    if (start() == Start::kCommitted) proofs_.push_back(*Stop(a_, "s1"));
  }

  template <typename T>
  T Pick(const std::vector<T>& from) {
    return from[random_() % from.size()];
  }

  void Finalize(MigrationHost& host, const std::string& id, v1::FinalizeAction action) {
    auto session = host.sessions->Find(id);
    if (!session.ok()) return;
    auto proof = Await((*session)->Finalize(action, Pick(proofs_)));
    // With the proof that RESUME returned, STOP would end the VM for good.
    if (proof.ok() && action == v1::FINALIZE_ACTION_STOP) proofs_.push_back(*proof);
  }

  void CallSomething() {
    const std::string id = Pick<std::string>({"s1", "s1", "s1", "s2", "stale"});
    MigrationHost& host = random_() % 2 == 0 ? a_ : b_;
    auto session = host.sessions->Find(id);
    switch (random_() % 10) {
      case 0:
        if (auto plan = Export(id); plan.ok()) plans_.push_back(*plan);
        break;
      case 1:
        (void)Import(id, Pick(plans_));
        break;
      case 2:
        if (auto prepared = Prepare(host, id); prepared.ok()) prepared_.push_back(*prepared);
        break;
      case 3:
      case 4:
      case 5:
        if (session.ok()) (void)Transfer(host, id, Pick(prepared_));
        break;
      case 6:
        Finalize(host, id, v1::FINALIZE_ACTION_STOP);
        break;
      case 7:
        Finalize(host, id, v1::FINALIZE_ACTION_RESUME);
        break;
      case 8:
        if (session.ok() && random_() % 4 == 0) (void)Await((*session)->Cancel("no more"));
        break;
      default:
        (void)Cleanup(host, id);
    }
  }

  Random random_{GetParam()};
  std::string vm_id_;
  std::vector<std::string> plans_{""};
  std::vector<std::string> proofs_{"", "no proof"};
  std::vector<v1::PrepareSandboxResponse> prepared_{{}};
};

TEST_P(ShuffleTest, NeverRunsTheVmTwiceAndNeverLosesIt) {
  Begin();
  for (int call = 0; call < 200; ++call) {
    CallSomething();
    Settle();
    ASSERT_FALSE(Runs(a_) && Runs(b_)) << "after call " << call;
  }
  // Calls that are all refused would prove nothing.
  if (start() >= Start::kVoted) {
    EXPECT_THAT(Kinds(b_, "s1"), AnyOf(Contains("GRANTED"), Contains("REFUSED")));
  }
  // Whatever is left can be ended: what the source gave away goes to the destination, all else
  // back.
  for (const std::string id : {"s1", "s2"}) {
    auto here = a_.sessions->Find(id);
    if (here.ok() && !(*here)->Describe().done()) {
      (void)Await((*here)->Cancel("the end"));
      if (auto go = Await((*here)->Finalize(v1::FINALIZE_ACTION_STOP, "")); go.ok()) {
        if (auto there = b_.sessions->Find(id); there.ok()) {
          (void)Await((*there)->Finalize(v1::FINALIZE_ACTION_RESUME, *go));
        }
      }
      (void)Await((*here)->Finalize(v1::FINALIZE_ACTION_RESUME, ""));
    }
    auto there = b_.sessions->Find(id);
    if (there.ok() && !(*there)->Describe().done()) {
      (void)Await((*there)->Finalize(v1::FINALIZE_ACTION_STOP, ""));
    }
    Settle();
  }
  EXPECT_NE(Runs(a_), Runs(b_));
}

INSTANTIATE_TEST_SUITE_P(Seeds, ShuffleTest, ::testing::Range(1u, 41u));

}  // namespace
}  // namespace ferry::migration
