// Containers that move with their VM: whose they are, whatever becomes of the migration.
#include "tests/unit/migration/controller/containers_fixture.h"

namespace ferry::migration {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

class ContainersMoveTest : public ContainersTest {};

TEST_F(ContainersMoveTest, TheyAreTheDestinationsAfterwards) {
  auto vm = Boot();
  const std::string container = RunContainer(vm, "one", {"base"}, false);
  Give(on_b_, "image", "base");
  EXPECT_EQ(Wait(a_, Migrate()).vm_location(), "host-b:1");
  Wait(b_, b_.sessions->List("").front().session_id());
  EXPECT_THAT(on_a_.containers->List(), IsEmpty());
  ASSERT_THAT(on_b_.containers->List(), SizeIs(1));
  EXPECT_EQ(on_b_.containers->List()[0]->id(), container);
  EXPECT_EQ(Rows(a_), 0u);
  EXPECT_EQ(Rows(b_), 1u);
  EXPECT_TRUE(HasScratch(container));
  ExpectMoved(vm, 2);
}

TEST_F(ContainersMoveTest, ADestinationIsPreparedOnceItHasAllOfThem) {
  auto vm = Boot();
  const std::string one = RunContainer(vm, "one", {"base"}, false);
  const std::string two = RunContainer(vm, "two", {"app"}, false);
  Give(on_b_, "image", "base");
  auto plan = Export("s1");
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_TRUE(Import("s1", *plan).ok());
  ASSERT_TRUE(Bind("s1", one).ok());
  absl::Status refused = Prepare(b_, "s1").status();
  EXPECT_EQ(rpc::ReasonOf(refused), "containers_unbound") << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr(two));
  ASSERT_TRUE(Bind("s1", two).ok());
  refused = Prepare(b_, "s1").status();
  EXPECT_EQ(rpc::ReasonOf(refused), "layers_missing") << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr(vm::DigestOf("app")));
  // Nothing was begun, and the session waits for what it lacks.
  EXPECT_EQ(State(b_, "s1"), v1::SESSION_STATE_DESTINATION_IMPORTED);
  EXPECT_THAT(Kinds(b_, "s1"), ElementsAre("IMPORTED"));
  EXPECT_EQ((*b_.host.inventory->Find(vm->id()))->system(), nullptr);
  Give(on_b_, "image", "app");
  const auto prepared = Prepare(b_, "s1");
  EXPECT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_NE((*b_.host.inventory->Find(vm->id()))->system(), nullptr);
}

// The copy that ends is not the one that runs, and its containers share their disks with that one.
TEST_F(ContainersMoveTest, AStaleCopyThatEndsRemovesNothingOfThem) {
  auto vm = Boot();
  const std::string container = RunContainer(vm, "one", {"base"}, true);
  Give(on_b_, "image", "base");
  const std::string id = MigrateAndLoseDone();
  ASSERT_THAT(on_b_.containers->List(), SizeIs(1));
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  peer_->Release("Settle");
  AwaitTold(id);
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  ExpectRunsAtSourceOnly(vm, id);
  EXPECT_TRUE(HasScratch(container));
  EXPECT_THAT(on_b_.containers->List(), IsEmpty());
  EXPECT_EQ(Rows(b_), 0u);
  ASSERT_THAT(on_a_.containers->List(), SizeIs(1));
  EXPECT_EQ(on_a_.containers->List()[0]->state(), v1::CONTAINER_STATE_RUNNING);
}

// A destination that has no room to record that the VM arrived.
class UnrecordedContainersTest : public ContainersMoveTest {
 protected:
  void SetUp() override {
    ContainersMoveTest::SetUp();
    b_.host.store.before_append = [this](vm::JournalRecord record) {
      const bool fails = full_ && record.kind == "RUNNING";
      if (fails) ++failed_;
      return Fail(fails);
    };
  }

  void TearDown() override {
    // The source lets go of its layers on a thread.
    Wait(a_, a_.sessions->List("").front().session_id());
    ContainersMoveTest::TearDown();
  }

  std::shared_ptr<vm::VmContainer> Arrive() {
    const std::string id = Migrate();
    Until([&] { return failed_ > 0; });
    EXPECT_EQ(Kinds(b_, id).back(), "GRANTED");
    EXPECT_THAT(on_b_.containers->List(), SizeIs(1));
    return on_b_.containers->List()[0];
  }

  bool full_ = true;
  int failed_ = 0;
};

TEST_F(UnrecordedContainersTest, TheirUsersDoNotWaitForThat) {
  auto vm = Boot();
  RunContainer(vm, "one", {"base"}, false);
  Give(on_b_, "image", "base");
  const auto container = Arrive();
  auto paused = Begin(container->Pause());
  const int before = failed_;
  Until([&] { return paused->has_value() || failed_ > before + 3; });
  ASSERT_TRUE(paused->has_value());
  EXPECT_TRUE((*paused)->ok()) << **paused;
  EXPECT_TRUE(Await(container->Resume()).ok());
  Guest(on_b_, vm->id()).Exit(container->id(), {guest::ExitStatus::Kind::kCode, 3});
  Settle();
  EXPECT_EQ(container->state(), v1::CONTAINER_STATE_STOPPED);
  EXPECT_EQ(container->record().exit().code(), 3u);
  full_ = false;
  Wait(b_, b_.sessions->List("").front().session_id());
  EXPECT_EQ(container->state(), v1::CONTAINER_STATE_STOPPED);
}

TEST_F(UnrecordedContainersTest, OneThatGoesWithItsVmGoesOnceItIsRecorded) {
  auto vm = Boot();
  RunContainer(vm, "one", {"base"}, true, true);
  Give(on_b_, "image", "base");
  const auto container = Arrive();
  auto& guest = Guest(on_b_, vm->id());
  guest.Exit(container->id(), {guest::ExitStatus::Kind::kCode, 0});
  guest.containers[container->id()].forgotten = true;
  on_b_.containers->NoteExitTaken(vm->id(), container->record().process_id());
  const int before = failed_;
  Until([&] { return failed_ > before + 3; });
  EXPECT_THAT(on_b_.containers->List(), SizeIs(1));
  full_ = false;
  Until([&] { return on_b_.containers->List().empty(); });
  EXPECT_EQ(Rows(b_), 0u);
  EXPECT_TRUE(b_.host.inventory->List().empty());
}

// A host whose disk is full when a VM is to be forgotten there.
class ForgottenContainersTest : public ContainersMoveTest {
 protected:
  void Fill(MigrationHost& host) {
    host.host.store.before_delete_vm = [this](const std::string&) {
      if (!full_) return absl::OkStatus();
      ++failed_;
      return absl::ResourceExhaustedError("the disk is full");
    };
  }
  void TearDown() override {
    full_ = false;
    ContainersMoveTest::TearDown();
    for (MigrationHost* host : {&a_, &b_}) host->host.store.before_delete_vm = nullptr;
  }

  // It is none of this host's, though its row is there.
  void ExpectNotOwned(MigrationHost& host, const std::string& vm_id) {
    auto left = host.host.inventory->Find(vm_id);
    if (!left.ok()) return;
    EXPECT_FALSE(Await((*left)->Start()).ok());
    EXPECT_FALSE(Await(host.host.inventory->Delete(*left)).ok());
  }
  void ExpectForgotten(MigrationHost& host, const std::string& container) {
    Until([&] { return host.host.inventory->List().empty(); });
    Settle();
    EXPECT_TRUE(Await(host.host.store.ListVms())->empty());
    EXPECT_EQ(Rows(host), 0u);
    EXPECT_TRUE(HasScratch(container));
  }

  bool full_ = true;
  int failed_ = 0;
};

TEST_F(ForgottenContainersTest, ASourceIsNotDoneBeforeNothingIsLeftOfTheVm) {
  auto vm = Boot();
  const std::string container = RunContainer(vm, "one", {"base"}, true);
  Give(on_b_, "image", "base");
  Fill(a_);
  const std::string id = Migrate();
  Until([&] { return failed_ > 3; });
  EXPECT_EQ(Kinds(a_, id).back(), "RELEASED");
  EXPECT_FALSE(Describe(a_, id).done());
  EXPECT_THAT(Describe(a_, id).error(), HasSubstr("cannot be removed yet: the disk is full"));
  EXPECT_TRUE(absl::IsFailedPrecondition(Cleanup(a_, id)));
  ExpectNotOwned(a_, vm->id());
  full_ = false;
  const v1::Session session = Wait(a_, id);
  EXPECT_EQ(session.outcome(), v1::SESSION_OUTCOME_SUCCEEDED);
  EXPECT_EQ(session.error(), "");
  ExpectForgotten(a_, container);
  EXPECT_TRUE(Cleanup(a_, id).ok());
}

TEST_F(ForgottenContainersTest, ARestartedSourceGoesOnWithThat) {
  auto vm = Boot();
  const std::string container = RunContainer(vm, "one", {"base"}, true);
  Give(on_b_, "image", "base");
  Fill(a_);
  Migrate();
  Until([&] { return failed_ > 0; });
  RestartDaemon(a_, on_a_);
  ExpectNotOwned(a_, vm->id());
  const int before = failed_;
  Until([&] { return failed_ > before + 3; });
  EXPECT_TRUE(HasScratch(container));
  full_ = false;
  ExpectForgotten(a_, container);
  EXPECT_TRUE(Runs(b_, vm->id()));
}

TEST_F(ForgottenContainersTest, ADestinationThatRefusedGoesOnWithThat) {
  auto vm = Boot();
  const std::string container = RunContainer(vm, "one", {"base"}, true);
  Give(on_b_, "image", "base");
  auto plan = Export("s1");
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_TRUE(Import("s1", *plan).ok());
  ASSERT_TRUE(Bind("s1", container).ok());
  const auto prepared = Prepare(b_, "s1");
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_TRUE(Transfer(b_, "s1").ok());
  EXPECT_TRUE(Transfer(a_, "s1", *prepared).ok());
  Until([&] { return State(a_, "s1") == v1::SESSION_STATE_TRANSFER_COMPLETED; });
  ASSERT_EQ(Rows(b_), 1u);
  Fill(b_);
  ASSERT_TRUE(Cancel(b_, "s1").ok());
  EXPECT_EQ(Kinds(b_, "s1").back(), "REFUSED");
  EXPECT_FALSE(Describe(b_, "s1").done());
  EXPECT_TRUE(absl::IsFailedPrecondition(Cleanup(b_, "s1")));
  Until([&] { return failed_ > 2; });
  RestartDaemon(b_, on_b_);
  ExpectNotOwned(b_, vm->id());
  full_ = false;
  ExpectForgotten(b_, container);
  Until([&] { return Describe(b_, "s1").done(); });
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
}

TEST_F(ForgottenContainersTest, AGivenUpVmIsForgottenInTheEnd) {
  auto vm = Boot();
  const std::string container = RunContainer(vm, "one", {"base"}, true);
  Give(on_b_, "image", "base");
  const std::string id = MigrateIntoDoubt();
  Fill(a_);
  EXPECT_FALSE(Recover(a_, id, "web", kGiveUp).ok());
  EXPECT_EQ(Kinds(a_, id).back(), "GIVEN_UP");
  EXPECT_FALSE(Describe(a_, id).done());
  full_ = false;
  EXPECT_EQ(Wait(a_, id).reason(), "given_up");
  ExpectForgotten(a_, container);
  peer_->Release("Settle");
  b_.host.backend.script().Release("FinalizeLiveMigration");
}

// As an earlier ferryd left it, which did not try again.
TEST_F(ForgottenContainersTest, WhatASessionThatIsOverLeftIsForgottenAtTheNextStart) {
  auto vm = Boot();
  const std::string container = RunContainer(vm, "one", {"base"}, true);
  Give(on_b_, "image", "base");
  const vm::VmRow row = vm->Row();
  const vm::ContainerRow its = Await(a_.host.store.ListContainers())->front();
  const std::string id = Migrate();
  Wait(a_, id);
  Until([&] { return Rows(a_) == 0; });
  ASSERT_TRUE(Await(a_.host.store.PutVm(row)).ok());
  ASSERT_TRUE(Await(a_.host.store.PutContainer(its)).ok());
  RestartDaemon(a_, on_a_);
  ExpectForgotten(a_, container);
  Until([&] { return Describe(a_, id).done(); });
  EXPECT_EQ(Describe(a_, id).outcome(), v1::SESSION_OUTCOME_SUCCEEDED);
  EXPECT_TRUE(Runs(b_, vm->id()));
}

}  // namespace
}  // namespace ferry::migration
