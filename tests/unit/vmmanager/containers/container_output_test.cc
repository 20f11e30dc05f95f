#include "vmmanager/containers/container_output.h"

#include <fstream>

#include "guestmanager/spool_file.h"
#include "tests/unit/vmmanager/containers/containers_fixture.h"
#include "vmmanager/containers/container_moves.h"

namespace ferry::vm {
namespace {

using guest::Stream;

// A detached container whose VM keeps what it prints, as a daemon would.
class ContainerOutputTest : public ContainersTest {
 protected:
  void SetUp() override {
    vm_ = Boot("vm");
    Guest(vm_->id()).output_folder = folder_.Make("spool");
  }
  static v1::CreateContainerRequest Detached(const std::string& name) {
    v1::CreateContainerRequest request = Request("vm", name);
    request.mutable_spec()->set_detached(true);
    return request;
  }
  void Print(const VmContainer& container, const std::string& text) {
    Print(container, container.record().stdout_port(), text);
  }
  void Print(const VmContainer& container, uint32_t port, const std::string& text) {
    FakeContainerGuest& guest = Guest(vm_->id());
    guest.containers.at(container.id()).init->printed = text;
    const std::string file = absl::StrCat(guest.output_folder, "/", port);
    const guest::Spool spool(text.size(), 0, text);
    ASSERT_TRUE(guest::SpoolFile(file, text.size()).Update(spool, false).ok());
  }
  void EndVm() {
    FakeContainerGuest& guest = Guest(vm_->id());
    ASSERT_TRUE(Await(vm_->Stop(true, milliseconds(0))).ok());
    guest.running = false;
    guest.disks.clear();
    guest.mounts.clear();
    guest.containers.clear();
    Settle();
  }
  std::string Read(const VmContainer& container, uint64_t since = 0) {
    const auto kept = container.ReadOutput(Stream::kStdout, since, 1000);
    EXPECT_TRUE(kept.ok()) << kept.status();
    return kept.ok() ? kept->bytes : "";
  }
  std::shared_ptr<VmContainer> Found(const std::string& name) {
    auto found = containers_->Find(name, "");
    EXPECT_TRUE(found.ok()) << found.status();
    return *found;
  }

  std::shared_ptr<UtilityVm> vm_;
};

TEST_F(ContainerOutputTest, ItIsReadWhileItRunsAndWhenItHasStopped) {
  const auto container = Make(Detached("one"));
  EXPECT_EQ(Read(*container), "");
  ASSERT_TRUE(Await(container->Start()).ok());
  Print(*container, "hello");
  EXPECT_EQ(Read(*container), "hello");
  EXPECT_EQ(Read(*container, 2), "llo");
  Exit(*container, 0);
  EXPECT_EQ(Read(*container), "hello");
}

TEST_F(ContainerOutputTest, ItOutlivesTheVmAndTheDaemon) {
  const auto before = Run(Detached("one"));
  Print(*before, "hello");
  EndVm();
  EXPECT_EQ(Read(*before), "hello");
  RestartDaemon();
  const auto kept = Found("one")->ReadOutput(Stream::kStdout, 1, 2);
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_EQ(kept->bytes, "el");
  EXPECT_EQ(kept->end, 5u);
  EXPECT_TRUE(kept->ended);
  ASSERT_TRUE(Await(containers_->Remove(Found("one"), false)).ok());
  EXPECT_TRUE(ScratchFolders().empty());
}

TEST_F(ContainerOutputTest, WhereItsVmWentBackIsKeptWithIt) {
  const auto before = Run(Detached("one"));
  Print(*before, "hello");
  Guest(vm_->id()).containers.at(before->id()).init->went_back_at = 3;
  EXPECT_EQ(before->ReadOutput(Stream::kStdout, 0, 9)->went_back_at, 3u);
  EndVm();
  RestartDaemon();
  EXPECT_EQ(Found("one")->ReadOutput(Stream::kStdout, 0, 9)->went_back_at, 3u);
}

TEST_F(ContainerOutputTest, ItOutlivesAVmThatEndedWithoutTheDaemon) {
  const auto before = Run(Detached("one"));
  Print(*before, "hello");
  host_.System(*vm_)->Exit(SystemExit::Cause::kCrashed, "a signal");
  Guest(vm_->id()).running = false;
  RestartDaemon();
  EXPECT_EQ(Read(*Found("one")), "hello");
}

TEST_F(ContainerOutputTest, AnotherBootsOutputIsNotTakenForIt) {
  const auto before = Run(Detached("one"));
  Print(*before, "first");
  const uint32_t port = before->record().stdout_port();
  EndVm();
  std::ofstream(absl::StrCat(Guest(vm_->id()).output_folder, "/", port)) << "of another process";
  RestartDaemon();
  EXPECT_EQ(Read(*Found("one")), "first");
}

TEST_F(ContainerOutputTest, ItOutlivesTheInitThatIsForgotten) {
  auto request = Detached("one");
  request.mutable_spec()->set_read_only(true);
  const auto before = Run(request);
  Print(*before, "hello");
  Exit(*before, 0);
  Guest(vm_->id()).Forget(before->id());
  EXPECT_EQ(Read(*before), "hello");
  EXPECT_EQ(before->record().stdout_port(), 0u);
  Settle();
  RestartDaemon();
  EXPECT_EQ(Read(*Found("one")), "hello");
  ContainerExports exports(*containers_);
  const auto records = Await(exports.Begin(vm_->id(), kAsNeeded));
  ASSERT_TRUE(records.ok()) << records.status();
  EXPECT_EQ((*records)[0].stdout().bytes(), "hello");
  Await(exports.End(vm_->id()));
}

TEST_F(ContainerOutputTest, ItOutlivesADaemonThatDiedBeforeItHadWrittenDownThatTheInitIsForgotten) {
  const auto before = Run(Detached("one"));
  Print(*before, "hello");
  Exit(*before, 0);
  Settle();
  const uint32_t port = before->record().stdout_port();
  const ContainerRow row = Await(host_.store.ListContainers())->front();
  Guest(vm_->id()).Forget(before->id());
  Settle();
  ASSERT_TRUE(Await(host_.store.PutContainer(row)).ok());
  // The next one takes the init for one that goes on, and begins its file anew.
  Guest(vm_->id()).containers.at(before->id()).forgotten = false;
  Print(*before, port, "");
  RestartDaemon();
  EXPECT_EQ(Read(*Found("one")), "hello");
  EXPECT_EQ(Found("one")->record().stdout_port(), 0u);
}

TEST_F(ContainerOutputTest, ItOutlivesAnInitThatIsForgottenByALaterDaemon) {
  const auto before = Run(Detached("one"));
  Print(*before, "hello");
  Exit(*before, 0);
  RestartDaemon();
  Guest(vm_->id()).Forget(before->id());
  Settle();
  RestartDaemon();
  EXPECT_EQ(Read(*Found("one")), "hello");
}

// One that has printed something which could not be taken over from its init, because something
// else is in the place of its folder.
class OutputNotTakenOverTest : public ContainerOutputTest {
 protected:
  void SetUp() override {
    ContainerOutputTest::SetUp();
    auto request = Detached("one");
    request.mutable_spec()->set_read_only(true);
    container_ = Run(request);
    Print(*container_, "hello");
    Exit(*container_, 0);
    port_ = container_->record().stdout_port();
    place_ = scratch_folder() + "/" + container_->id();
    std::filesystem::create_directories(scratch_folder());
    std::ofstream(place_) << "";
    Guest(vm_->id()).Forget(container_->id());
    ASSERT_EQ(container_->record().stdout_port(), port_);
  }
  void MakeRoom() { std::filesystem::remove(place_); }
  bool IsLeft() {
    return std::filesystem::exists(absl::StrCat(Guest(vm_->id()).output_folder, "/", port_));
  }

  std::shared_ptr<VmContainer> container_;
  uint32_t port_ = 0;
  std::string place_;
};

TEST_F(OutputNotTakenOverTest, StaysForTheNextDaemon) {
  EXPECT_TRUE(IsLeft());
  MakeRoom();
  RestartDaemon();
  EXPECT_EQ(Read(*Found("one")), "hello");
  EXPECT_FALSE(IsLeft());
}

TEST_F(OutputNotTakenOverTest, KeepsItsVmFromMovingUntilItCanBe) {
  ContainerExports exports(*containers_);
  const absl::Status refused = Await(exports.Begin(vm_->id(), kAsNeeded)).status();
  EXPECT_EQ(rpc::ReasonOf(refused), "output_not_kept") << refused;
  Await(exports.End(vm_->id()));
  MakeRoom();
  const auto records = Await(exports.Begin(vm_->id(), kAsNeeded));
  ASSERT_TRUE(records.ok()) << records.status();
  EXPECT_EQ((*records)[0].stdout().bytes(), "hello");
  EXPECT_EQ(Read(*container_), "hello");
  Await(exports.End(vm_->id()));
}

TEST_F(OutputNotTakenOverTest, GoesWithItsContainer) {
  MakeRoom();
  ASSERT_TRUE(Await(containers_->Remove(container_, false)).ok());
  EXPECT_FALSE(IsLeft());
}

TEST_F(ContainerOutputTest, OfAnInitThatIsForgottenWhileMemoryMovesItGoesInTheCut) {
  for (const std::string name : {"one", "two"}) {
    auto request = Detached(name);
    request.mutable_spec()->set_read_only(true);
    Print(*Run(request), "hello");
  }
  const auto first = Found("one");
  Exit(*first, 0);
  Guest(vm_->id()).Forget(first->id());
  ContainerExports exports(*containers_);
  const auto plan = Await(exports.Begin(vm_->id(), kAsNeeded));
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto second = Found("two");
  Exit(*second, 0);
  Guest(vm_->id()).Forget(second->id());
  for (const state::v1::ContainerRecord& record : exports.Cut(vm_->id())) {
    const bool in_plan = record.container_id() == first->id();
    EXPECT_EQ(record.stdout().bytes(), in_plan ? "" : "hello");
  }
  // What a dry run tells the other host has none.
  const auto described = Await(exports.Describe(vm_->id(), kAsNeeded));
  ASSERT_TRUE(described.ok()) << described.status();
  EXPECT_EQ(described->size(), 2u);
  for (const state::v1::ContainerRecord& record : *described) {
    EXPECT_FALSE(record.has_stdout());
  }
  Await(exports.End(vm_->id()));
}

TEST_F(ContainerOutputTest, ATerminalHasNoStderr) {
  auto request = Detached("one");
  request.mutable_spec()->set_terminal(true);
  const auto before = Run(request);
  Print(*before, "hello");
  EndVm();
  RestartDaemon();
  EXPECT_EQ(Read(*Found("one")), "hello");
  const auto none = Found("one")->ReadOutput(Stream::kStderr, 0, 10);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_EQ(none->bytes, "");
  EXPECT_TRUE(none->ended);
}

TEST_F(ContainerOutputTest, OneThatNeverRanHasPrintedNothing) {
  const auto before = Make(Detached("one"));
  EndVm();
  const auto none = before->ReadOutput(Stream::kStdout, 0, 10);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_TRUE(none->ended);
}

TEST_F(ContainerOutputTest, OfOneThatIsNotDetachedNothingIsKept) {
  const auto container = Run(Request("vm", "one"));
  const auto none = container->ReadOutput(Stream::kStdout, 0, 10);
  EXPECT_EQ(none.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(NextStepOf(none.status()), HasSubstr("-d"));
}

TEST_F(ContainerOutputTest, WhatIsNotKeptAnyMoreIsSaid) {
  const auto before = Run(Detached("one"));
  Guest(vm_->id()).containers.at(before->id()).forgotten = true;
  RestartDaemon();
  EXPECT_TRUE(absl::IsNotFound(Found("one")->ReadOutput(Stream::kStdout, 0, 10).status()));
}

}  // namespace
}  // namespace ferry::vm
